package robustness

import (
	"slices"
	"testing"
	"time"
)

var someFaults = []Fault{
	{Name: "often", Weight: 8},
	{Name: "seldom", Weight: 1, Least: time.Second, Most: 2 * time.Second},
	{Name: "several", Weight: 1, Needs: func(t Topology) bool { return t.ControlPlanes > 1 }},
}

func steps(seed uint64, t Topology, n int) []Step {
	p := NewPlan(seed, t, someFaults)
	var all []Step
	for range n {
		all = append(all, p.Next())
	}
	return all
}

func names(all []Step) []string {
	var n []string
	for _, s := range all {
		n = append(n, s.Fault)
	}
	return n
}

func TestAPlanIsItsSeed(t *testing.T) {
	one := Topology{ControlPlanes: 1}
	if a, b := steps(7, one, 50), steps(7, one, 50); !slices.Equal(a, b) {
		t.Errorf("%v\n%v", a, b)
	}
	if a, b := steps(7, one, 50), steps(8, one, 50); slices.Equal(a, b) {
		t.Error("two seeds, one plan")
	}
}

func TestAPlanDrawsEveryFaultFirstAndThenByWeight(t *testing.T) {
	first := names(steps(1, Topology{ControlPlanes: 3}, 3))
	slices.Sort(first)
	if !slices.Equal(first, []string{"often", "seldom", "several"}) {
		t.Errorf("the first are %v", first)
	}
	count := map[string]int{}
	for _, name := range names(steps(1, Topology{ControlPlanes: 3}, 2000)) {
		count[name]++
	}
	if count["often"] < 1400 || count["seldom"] < 100 || count["several"] < 100 {
		t.Errorf("have %v", count)
	}
	if slices.Contains(names(steps(1, Topology{ControlPlanes: 1}, 500)), "several") {
		t.Error("a fault of several control planes with one")
	}
}

func TestAStepsTimesAreWithinTheirBounds(t *testing.T) {
	for _, s := range steps(3, Topology{}, 500) {
		if s.After < leastPeace || s.After > mostPeace {
			t.Errorf("peace of %v", s.After)
		}
		if s.Fault == "seldom" && (s.Hold < time.Second || s.Hold > 2*time.Second) || s.Fault == "often" && s.Hold != 0 {
			t.Errorf("%v", s)
		}
	}
}
