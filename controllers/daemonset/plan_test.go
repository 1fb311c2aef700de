package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a state from a line for each node: its name, where "!" is a node
// that takes no more Pods, "x" one that keeps none, "?" one that is gone; and
// its Pods: "o" old, "n" new, capital if ready; with "-" being deleted, with
// "f" failed, with "s" succeeded, with "u" without a node.
func world(unavailable, surge int, lines ...string) *state {
	set := &appsv1.DaemonSet{}
	set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
		MaxUnavailable: ptr.To(intstr.FromInt(unavailable)), MaxSurge: ptr.To(intstr.FromInt(surge)),
	}}
	s := &state{set: set, hash: "new", pods: map[string][]*corev1.Pod{}, now: now, failed: func(string) (bool, time.Duration) { return true, 0 }}
	for _, line := range lines {
		words := strings.Fields(line)
		name := strings.TrimRight(words[0], "!x?")
		flag := strings.TrimPrefix(words[0], name)
		if flag != "?" {
			s.nodes = append(s.nodes, node{name: name, run: flag == "", stays: flag != "x"})
		}
		for i, word := range words[1:] {
			s.pods[name] = append(s.pods[name], podOf(name, i, word))
		}
	}
	return s
}

func podOf(node string, i int, word string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: fmt.Sprint(node, i), CreationTimestamp: metav1.Time{Time: now.Add(time.Duration(i) * time.Second)},
		Labels: map[string]string{hashLabel: "old"},
	}}
	p.Spec.NodeName = node
	if strings.ContainsAny(word, "nN") {
		p.Labels[hashLabel] = "new"
	}
	if strings.ContainsAny(word, "NO") {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: now.Add(-time.Minute)}}}
	}
	for mark, do := range map[string]func(){
		"-": func() { p.DeletionTimestamp = &metav1.Time{Time: now} },
		"f": func() { p.Status.Phase = corev1.PodFailed },
		"s": func() { p.Status.Phase = corev1.PodSucceeded },
		"u": func() { p.Spec.NodeName = "" },
	} {
		if strings.Contains(word, mark) {
			do()
		}
	}
	return p
}

// text is a plan as "create a b, remove c0".
func text(p plan) string {
	var removed []string
	for _, pod := range p.remove {
		removed = append(removed, pod.Name)
	}
	slices.Sort(removed)
	slices.Sort(p.create)
	return fmt.Sprintf("create %v, remove %v", p.create, removed)
}

func TestManage(t *testing.T) {
	for name, c := range map[string]struct {
		surge int
		lines []string
		want  string
	}{
		"nodes without":                  {lines: []string{"a", "b N", "c! ", "dx"}, want: "create [a], remove []"},
		"nodes that may not":             {lines: []string{"a! N", "bx N"}, want: "create [], remove [b0]"},
		"one that ends is waited for":    {lines: []string{"a N-"}, want: "create [], remove []"},
		"with a surge it is not":         {surge: 1, lines: []string{"a N-"}, want: "create [a], remove []"},
		"nor on a node that takes more":  {surge: 1, lines: []string{"a! N-"}, want: "create [], remove []"},
		"failed and ended":               {lines: []string{"a of", "b Ns"}, want: "create [], remove [a0 b0]"},
		"failed and deleted":             {lines: []string{"a of-"}, want: "create [], remove []"},
		"the oldest of three stays":      {lines: []string{"a n N o"}, want: "create [], remove [a1 a2]"},
		"without a node waits":           {lines: []string{"a nu"}, want: "create [], remove []"},
		"without a node, for one gone":   {lines: []string{"a? nu N"}, want: "create [], remove [a0]"},
		"surge: old and new both wait":   {surge: 1, lines: []string{"a o n"}, want: "create [], remove [a0]"},
		"surge: the new one is not yet":  {surge: 1, lines: []string{"a O n"}, want: "create [], remove []"},
		"surge: the new one is there":    {surge: 1, lines: []string{"a O N"}, want: "create [], remove [a0]"},
		"surge: the oldest of each kind": {surge: 1, lines: []string{"a O O n n"}, want: "create [], remove [a1 a3]"},
		"surge: not of a deleted one":    {surge: 1, lines: []string{"a O N-"}, want: "create [], remove []"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text(manage(world(1, c.surge, c.lines...))); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestManageBacksOff(t *testing.T) {
	s := world(1, 0, "a of", "b of", "c of")
	s.failed = func(node string) (bool, time.Duration) {
		return node == "b", map[string]time.Duration{"a": time.Minute, "c": time.Second}[node]
	}
	p := manage(s)
	if text(p) != "create [], remove [b0]" || p.again != time.Second || len(p.notes) != 1 || p.notes[0].reason != daemon.FailedDaemonPodReason {
		t.Errorf("%s, again after %v, %v", text(p), p.again, p.notes)
	}
}

func TestRoll(t *testing.T) {
	for name, c := range map[string]struct {
		unavailable, surge int
		lines              []string
		want               string
	}{
		"one of three":                     {unavailable: 1, lines: []string{"a O", "b O", "c O"}, want: "create [], remove [a0]"},
		"two of three":                     {unavailable: 2, lines: []string{"a O", "b O", "c O"}, want: "create [], remove [a0 b0]"},
		"none while a new one starts":      {unavailable: 1, lines: []string{"a n", "b O", "c O"}, want: "create [], remove []"},
		"none while one ends":              {unavailable: 1, lines: []string{"a O-", "b O", "c O"}, want: "create [], remove []"},
		"none while one is missing":        {unavailable: 1, lines: []string{"a", "b O", "c O"}, want: "create [], remove []"},
		"those that do not work at once":   {unavailable: 1, lines: []string{"a O", "b o", "c o"}, want: "create [], remove [b0 c0]"},
		"none while two are on a node":     {unavailable: 1, lines: []string{"a O O", "b O"}, want: "create [], remove []"},
		"the next":                         {unavailable: 1, lines: []string{"a N", "b O", "c O"}, want: "create [], remove [b0]"},
		"done":                             {unavailable: 1, lines: []string{"a N", "b N"}, want: "create [], remove []"},
		"neither is one unavailable":       {lines: []string{"a O", "b O"}, want: "create [], remove [a0]"},
		"no nodes, no Pods":                {want: "create [], remove []"},
		"a node that takes no more":        {unavailable: 1, lines: []string{"a! O", "b N"}, want: "create [], remove [a0]"},
		"surge on one":                     {surge: 1, lines: []string{"a O", "b O"}, want: "create [a], remove []"},
		"surge on one that is not there":   {surge: 1, lines: []string{"a O n", "b O"}, want: "create [], remove []"},
		"surge that has come":              {surge: 1, lines: []string{"a O N", "b O"}, want: "create [b], remove [a0]"},
		"surge where the old is broken":    {surge: 1, lines: []string{"a o", "b o", "c O"}, want: "create [a b c], remove []"},
		"surge: an old broken one, unmet":  {surge: 1, lines: []string{"a! o", "b N"}, want: "create [], remove [a0]"},
		"surge: misplaced, none elsewhere": {surge: 1, lines: []string{"a! O", "b n"}, want: "create [], remove []"},
		"surge: misplaced, one elsewhere":  {surge: 1, lines: []string{"a! O", "b N"}, want: "create [], remove [a0]"},
		"surge: the node is gone":          {surge: 1, lines: []string{"a? O", "b O"}, want: "create [b], remove []"},
		"surge: done":                      {surge: 1, lines: []string{"a N", "b N"}, want: "create [], remove []"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := roll(world(c.unavailable, c.surge, c.lines...))
			if err != nil {
				t.Fatal(err)
			}
			if got := text(p); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestRollRefuses(t *testing.T) {
	for _, spoil := range []func(*appsv1.RollingUpdateDaemonSet){
		func(r *appsv1.RollingUpdateDaemonSet) { r.MaxUnavailable = ptr.To(intstr.FromString("much")) },
		func(r *appsv1.RollingUpdateDaemonSet) { r.MaxSurge = ptr.To(intstr.FromString("much")) },
	} {
		s := world(1, 0, "a O")
		spoil(s.set.Spec.UpdateStrategy.RollingUpdate)
		if p, err := roll(s); err == nil {
			t.Errorf("accepted: %s", text(p))
		}
	}
}

func TestPlanStatus(t *testing.T) {
	s := world(1, 0, "a N", "b O", "c n o", "d", "e! N", "f!", "gx N", "h? N")
	s.set.Generation = 7
	s.set.Status.CollisionCount = ptr.To[int32](2)
	got := planStatus(s)
	want := appsv1.DaemonSetStatus{
		ObservedGeneration: 7, CollisionCount: ptr.To[int32](2),
		DesiredNumberScheduled: 4, CurrentNumberScheduled: 3, NumberMisscheduled: 2,
		NumberReady: 2, NumberAvailable: 2, NumberUnavailable: 2, UpdatedNumberScheduled: 2,
	}
	if !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	s.set.Spec.MinReadySeconds = 3600
	if got := planStatus(s); got.NumberReady != 2 || got.NumberAvailable != 0 || got.NumberUnavailable != 4 {
		t.Errorf("ready for a minute, not an hour: %+v", got)
	}
}

// TestTemplate: a revision's data is upstream's, byte for byte.
func TestTemplate(t *testing.T) {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Generation: 3}}
	set.Spec.Template = corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
		Spec: corev1.PodSpec{
			Containers:  []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "X", Value: "<&>"}}}},
			Tolerations: []corev1.Toleration{{Key: "k", TolerationSeconds: ptr.To[int64](1<<62 + 1)}},
		},
	}
	data, err := template(set)
	if err != nil {
		t.Fatal(err)
	}
	revision := &appsv1.ControllerRevision{}
	revision.Data.Raw = data
	if same, err := daemon.Match(set, revision); err != nil || !same {
		t.Errorf("upstream would make another one: %v\n%s", err, data)
	}
}

func TestSurplusRevisions(t *testing.T) {
	var old []*appsv1.ControllerRevision
	for i := range 4 {
		old = append(old, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i), Labels: map[string]string{hashLabel: fmt.Sprint(i)}}})
	}
	pods := []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{hashLabel: "1"}}}}
	for limit, want := range map[int]string{9: "[]", 4: "[]", 3: "[0]", 2: "[0 2]", 0: "[0 2 3]"} {
		got := []string{}
		for _, c := range surplusRevisions(old, limit, pods) {
			got = append(got, c.Name)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("limit %d: %v, want %s", limit, got, want)
		}
	}
}
