package robustness

import (
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/test/robustness/history"
)

func TestAnAccountHasTheSpellWithoutAWriteOfEachFault(t *testing.T) {
	write := func(at time.Duration) history.Operation {
		return history.Operation{Kind: history.Update, Outcome: history.OK, Call: at, Return: at}
	}
	r := Account{
		Topology: Topology{ControlPlanes: 1, Workers: 2}, Seed: 42, Durability: "durable", Duration: time.Minute,
		Steps: []Happened{
			{Step: Step{Fault: "kill"}, At: 10 * time.Second, Undone: 10 * time.Second, Recovered: 12 * time.Second},
			{Step: Step{Fault: "freeze"}, At: 20 * time.Second, Undone: 23 * time.Second, Recovered: 24 * time.Second},
		},
		History: history.History{Operations: []history.Operation{
			write(9 * time.Second), write(11 * time.Second), write(20 * time.Second), write(23500 * time.Millisecond), write(24 * time.Second),
		}},
	}
	got := r.String()
	for _, want := range []string{
		"Seed 42.", "nothing acknowledged was lost", "| update | 5 |", "5 operations",
		"| freeze | 1 | 3.50 | 1.00 (1.00) |", "| kill | 1 | 9.00 | 2.00 (2.00) |", "longest spell without a successful write was 9.00 s",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	r.Violations = []string{"a was lost"}
	if got := r.String(); strings.Contains(got, "nothing acknowledged was lost") || !strings.Contains(got, "**1 violations.**") || !strings.Contains(got, "- a was lost") {
		t.Errorf("have\n%s", got)
	}
}

func TestAReportHasTheLastAccountOfEachKindOfCluster(t *testing.T) {
	one := &Account{Topology: Topology{ControlPlanes: 1, Workers: 2}, Durability: "durable", Seed: 1}
	three := &Account{Topology: Topology{ControlPlanes: 3, Workers: 2}, Durability: "durable", Seed: 2}
	again := &Account{Topology: Topology{ControlPlanes: 1, Workers: 2}, Durability: "durable", Seed: 3}
	got := Merge(Merge(Merge("", one), three), again)
	if strings.Count(got, "### ") != 2 || strings.Contains(got, "Seed 1.") || !strings.Contains(got, "Seed 2.") || !strings.Contains(got, "Seed 3.") || strings.Count(got, "# Robustness") != 1 {
		t.Errorf("have\n%s", got)
	}
}
