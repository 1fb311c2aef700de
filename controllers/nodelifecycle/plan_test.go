package nodelifecycle

import (
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// node has its Ready condition from a heartbeat at that time; none if the
// status is empty.
func node(name string, status corev1.ConditionStatus, heartbeat time.Time) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(start)}}
	if status != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, LastHeartbeatTime: metav1.NewTime(heartbeat)}}
	}
	return n
}

func lease(renewed time.Time) *coordinationv1.Lease {
	t := metav1.NewMicroTime(renewed)
	return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &t}}
}

func TestLook(t *testing.T) {
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	known := look(nil, node("n", "True", at(0)), lease(at(0)), at(10))
	never := look(nil, node("n", "", at(0)), nil, at(10))
	for name, c := range map[string]struct {
		before *health
		node   *corev1.Node
		lease  *coordinationv1.Lease
		seen   int
		silent int
	}{
		"first seen with an old status, lives":          {nil, node("n", "True", at(-500)), nil, 100, 150},
		"first seen without a status, since its making": {nil, node("n", "", at(0)), nil, 0, 60},
		"first seen without a status, but with a lease": {nil, node("n", "", at(0)), lease(at(99)), 100, 160},
		"nothing new":                                     {&known, node("n", "True", at(0)), lease(at(0)), 10, 60},
		"a new heartbeat":                                 {&known, node("n", "True", at(50)), lease(at(0)), 100, 150},
		"a renewed lease":                                 {&known, node("n", "True", at(0)), lease(at(40)), 100, 150},
		"the first status":                                {&never, node("n", "False", at(50)), nil, 100, 150},
		"a clock that goes back is a heartbeat":           {&known, node("n", "True", at(-50)), lease(at(0)), 100, 150},
		"a lease that goes back is none":                  {&known, node("n", "True", at(0)), lease(at(-50)), 10, 60},
		"a status that vanished, of which nobody is sure": {&known, node("n", "", at(0)), lease(at(0)), 100, 160},
	} {
		t.Run(name, func(t *testing.T) {
			h := look(c.before, c.node, c.lease, at(100))
			if !h.seen.Equal(at(c.seen)) || !h.silentAt(60*time.Second, 50*time.Second).Equal(at(c.silent)) {
				t.Errorf("seen at %v, silent at %v; want %v, %v", h.seen.Sub(start), h.silentAt(60*time.Second, 50*time.Second).Sub(start), c.seen, c.silent)
			}
		})
	}
}

func TestALookThatComesFarTooLateSaysNothingOfTheNode(t *testing.T) {
	at := func(after time.Duration) time.Time { return start.Add(after) }
	for name, c := range map[string]struct {
		ready corev1.ConditionStatus
		after time.Duration
		want  bool
	}{
		"in time":                        {corev1.ConditionTrue, MonitorGrace, false},
		"a little late":                  {corev1.ConditionTrue, MonitorGrace + standstill, false},
		"after a pause":                  {corev1.ConditionTrue, MonitorGrace + standstill + 1, true},
		"after a pause, not ready":       {corev1.ConditionFalse, time.Hour, true},
		"after a pause, before a status": {"", time.Hour, true},
		"given up before the pause":      {corev1.ConditionUnknown, time.Hour, false},
	} {
		h := health{seen: start, posted: c.ready != ""}
		if got := h.overslept(node("n", c.ready, start), StartupGrace, MonitorGrace, at(c.after)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestUnready(t *testing.T) {
	h := look(nil, node("n", "False", start), nil, start)
	h = look(&h, node("n", "False", start.Add(time.Second)), nil, start.Add(time.Second))
	if !h.unready.Equal(start) {
		t.Errorf("since %v", h.unready)
	}
	h = look(&h, node("n", "True", start.Add(2*time.Second)), nil, start.Add(2*time.Second))
	if !h.unready.IsZero() {
		t.Errorf("ready, but unready since %v", h.unready)
	}
}

func TestGiveUp(t *testing.T) {
	n := node("n", "True", start)
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse})
	after := giveUp(n, start.Add(time.Minute))
	var got []string
	for _, c := range after.Status.Conditions {
		got = append(got, fmt.Sprint(c.Type, c.Status, c.Reason))
	}
	want := "[ReadyUnknownNodeStatusUnknown NetworkUnavailableFalse MemoryPressureUnknownNodeStatusNeverUpdated " +
		"DiskPressureUnknownNodeStatusNeverUpdated PIDPressureUnknownNodeStatusNeverUpdated]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v\nwant %v", got, want)
	}
	if n.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Error("the node was changed")
	}
	if giveUp(after, start) != nil {
		t.Error("given up twice")
	}
}

func TestTaints(t *testing.T) {
	taint := func(key string, effect corev1.TaintEffect) corev1.Taint {
		return corev1.Taint{Key: key, Effect: effect, TimeAdded: &metav1.Time{Time: start}}
	}
	const (
		notReady, unreachable = corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable
		noSchedule, noExecute = corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute
	)
	now := start.Add(time.Minute)
	for name, c := range map[string]struct {
		ready     corev1.ConditionStatus
		cordoned  bool
		pressure  bool
		has       []corev1.Taint
		all       bool
		noPermit  bool
		want      string
		wantTimes string // "0s" kept, "1m0s" new
	}{
		"a new node that is ready":                {ready: "True", has: []corev1.Taint{taint(notReady, noSchedule)}, want: "[]"},
		"taints of others stay":                   {ready: "True", has: []corev1.Taint{taint("x", noSchedule), taint("x", noExecute)}, want: "[x:NoSchedule x:NoExecute]", wantTimes: "[0s 0s]"},
		"not ready":                               {ready: "False", want: "[node.kubernetes.io/not-ready:NoExecute node.kubernetes.io/not-ready:NoSchedule]", wantTimes: "[1m0s 1m0s]"},
		"not ready, no permit to evict":           {ready: "False", noPermit: true, want: "[node.kubernetes.io/not-ready:NoSchedule]", wantTimes: "[1m0s]"},
		"not ready, as before":                    {ready: "False", has: []corev1.Taint{taint(notReady, noSchedule), taint(notReady, noExecute)}, want: "[node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute]", wantTimes: "[0s 0s]"},
		"not ready, then silent: needs no permit": {ready: "Unknown", noPermit: true, has: []corev1.Taint{taint(notReady, noSchedule), taint(notReady, noExecute)}, want: "[node.kubernetes.io/unreachable:NoExecute node.kubernetes.io/unreachable:NoSchedule]", wantTimes: "[1m0s 1m0s]"},
		"silent, as all others":                   {ready: "Unknown", all: true, has: []corev1.Taint{taint(unreachable, noExecute)}, want: "[node.kubernetes.io/unreachable:NoSchedule]", wantTimes: "[1m0s]"},
		"cordoned under pressure":                 {ready: "True", cordoned: true, pressure: true, want: "[node.kubernetes.io/memory-pressure:NoSchedule node.kubernetes.io/unschedulable:NoSchedule]", wantTimes: "[1m0s 1m0s]"},
		"uncordoned":                              {ready: "True", has: []corev1.Taint{taint(corev1.TaintNodeUnschedulable, noSchedule)}, want: "[]"},
		"never posted a status":                   {has: []corev1.Taint{taint(notReady, noSchedule), taint(notReady, noExecute)}, want: "[node.kubernetes.io/not-ready:NoExecute]", wantTimes: "[0s]"},
	} {
		t.Run(name, func(t *testing.T) {
			n := node("n", c.ready, start)
			n.Spec.Unschedulable, n.Spec.Taints = c.cordoned, c.has
			if c.pressure {
				n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue})
			}
			what := planEviction(n, c.all)
			if what == addTaint && c.noPermit {
				what = leaveTaints
			}
			got, times := []string{}, []time.Duration{}
			for _, t := range planTaints(n, what, now) {
				got = append(got, t.Key+":"+string(t.Effect))
				times = append(times, t.TimeAdded.Sub(start))
			}
			if c.wantTimes == "" {
				c.wantTimes = "[]"
			}
			if fmt.Sprint(got) != c.want || fmt.Sprint(times) != c.wantTimes {
				t.Errorf("%v %v\nwant %v %v", got, times, c.want, c.wantTimes)
			}
		})
	}
}

func TestZones(t *testing.T) {
	z := newZones()
	nodes := func(states ...corev1.ConditionStatus) []*corev1.Node {
		var list []*corev1.Node
		for i, s := range states {
			list = append(list, node(fmt.Sprint(i), s, start))
		}
		return list
	}
	for _, step := range []struct {
		name  string
		nodes []*corev1.Node
		turn  turn
		lost  bool
		may   bool
	}{
		{"none", nil, turn{}, false, true},
		{"the first, not ready", nodes("False"), turn{changed: true}, true, false},
		{"ready", nodes("True"), turn{changed: true, regained: true}, false, true},
		{"one of three is silent", nodes("True", "True", "Unknown"), turn{}, false, false}, // the permit is taken
		{"two of three", nodes("True", "Unknown", "Unknown"), turn{}, false, false},
		{"three of four: more likely us", nodes("True", "Unknown", "Unknown", "Unknown"), turn{changed: true}, false, false},
		{"and back", nodes("True", "True", "True", "Unknown"), turn{changed: true}, false, true},
		{"all", nodes("Unknown", "Unknown", "Unknown", ""), turn{changed: true}, true, false},
	} {
		if got := z.count(step.nodes); got != step.turn || z.allLost() != step.lost {
			t.Errorf("%s: %+v, lost %v", step.name, got, z.allLost())
		}
		if ok, _ := z.mayEvict(node("n", "Unknown", start)); ok != step.may {
			t.Errorf("%s: may evict: %v", step.name, ok)
		}
	}
	if rate := zoneRate(10, 60); rate != secondaryEvictionRate {
		t.Errorf("a large zone in trouble: %v", rate)
	}
}
