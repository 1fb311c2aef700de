package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// podOf reads a Pod: "name phase" and more words: index=1 ended=30s code=7
// failures=2 deleting untracked ready restarts=3.
func podOf(text string) *corev1.Pod {
	words := strings.Fields(text)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: words[0], UID: types.UID(words[0]), Annotations: map[string]string{}, Finalizers: []string{batchv1.JobTrackingFinalizer},
		CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
	}, Status: corev1.PodStatus{Phase: corev1.PodPhase(words[1])}}
	ended, code, restarts := time.Minute, 0, 0
	for _, word := range words[2:] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "index":
			p.Annotations[batchv1.JobCompletionIndexAnnotation] = value
		case "failures":
			p.Annotations[batchv1.JobIndexFailureCountAnnotation] = value
		case "ended":
			ended, _ = time.ParseDuration(value)
		case "code":
			code = number(value)
		case "restarts":
			restarts = number(value)
		case "deleting":
			p.DeletionTimestamp = &metav1.Time{Time: now}
		case "untracked":
			p.Finalizers = nil
		case "ready":
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
	}
	c := corev1.ContainerStatus{Name: "c", RestartCount: int32(restarts)}
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: int32(code), FinishedAt: metav1.NewTime(now.Add(-ended))}
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{c}
	return p
}

// seen is the view of a Job, three completions at once unless changed, with
// these Pods.
func seen(change func(*batchv1.Job), pods ...string) *view {
	job := &batchv1.Job{Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](3), Completions: ptr.To[int32](3), BackoffLimit: ptr.To[int32](6)}}
	job.Status.StartTime = &metav1.Time{Time: now.Add(-time.Hour)}
	if change != nil {
		change(job)
	}
	v := view{job: job, settled: true}
	for _, p := range pods {
		v.pods = append(v.pods, podOf(p))
	}
	v.active = controller.FilterActivePods(klog.Background(), v.pods)
	return newView(v)
}

func byIndex(j *batchv1.Job) { j.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

func perIndex(limit int32) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		byIndex(j)
		j.Spec.BackoffLimitPerIndex = &limit
		j.Spec.BackoffLimit = ptr.To[int32](1000)
	}
}

func exit(action batchv1.PodFailurePolicyAction, change func(*batchv1.Job)) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		if change != nil {
			change(j)
		}
		j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
		}}}
	}
}

func TestPlanPods(t *testing.T) {
	for name, c := range map[string]struct {
		v       *view
		over    bool
		create  int
		indexes []int
		drop    []string
		end     []string
		after   time.Duration
	}{
		"none yet":                    {v: seen(nil), create: 3},
		"one runs, one has succeeded": {v: seen(nil, "a Running", "b Succeeded"), create: 1},
		"enough":                      {v: seen(nil, "a Running", "b Running", "c Succeeded")},
		"one too many":                {v: seen(nil, "a Running ready", "b Running ready", "c Succeeded", "d Pending"), drop: []string{"d"}},
		"it is over":                  {v: seen(nil, "a Running", "b Failed"), over: true, end: []string{"a"}},
		"over, the cache is behind":   {v: func() *view { v := seen(nil, "a Running"); v.settled = false; return v }(), over: true},
		"the cache is behind":         {v: func() *view { v := seen(nil); v.settled = false; return v }()},
		"it is being deleted":         {v: seen(func(j *batchv1.Job) { j.DeletionTimestamp = &metav1.Time{Time: now} }, "a Running")},
		"suspended":                   {v: seen(func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }, "a Running", "b Succeeded"), drop: []string{"a"}},
		"a work queue with a success": {v: seen(func(j *batchv1.Job) { j.Spec.Completions = nil }, "a Running", "b Succeeded")},
		"one failed just now":         {v: seen(nil, "a Running", "b Failed ended=4s"), after: 6 * time.Second},
		"one failed long ago":         {v: seen(nil, "a Running", "b Failed ended=10s"), create: 2},
		"a deleted one is replaced":   {v: seen(nil, "a Running", "b Running", "c Running deleting"), after: 10 * time.Second},
		"a deleted one not before it ended": {v: seen(func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed) },
			"a Running", "b Running", "c Running deleting")},
		"more than a burst": {v: seen(func(j *batchv1.Job) { j.Spec.Parallelism, j.Spec.Completions = ptr.To[int32](900), ptr.To[int32](900) }), create: 500},

		"indexes":                       {v: seen(byIndex, "a Running index=1"), create: 2, indexes: []int{0, 2}},
		"an index twice, and none":      {v: seen(byIndex, "a Running ready index=1", "b Pending index=1", "c Running", "d Running index=7"), drop: []string{"b", "c", "d"}},
		"indexes wait on their own":     {v: seen(perIndex(5), "a Failed index=0 ended=1s", "b Failed index=1 ended=1m"), create: 2, indexes: []int{1, 2}, after: 9 * time.Second},
		"an index that failed for good": {v: seen(perIndex(1), "a Failed index=0 failures=1"), create: 2, indexes: []int{1, 2}},
		"an index that has succeeded":   {v: seen(byIndex, "a Succeeded index=2"), create: 2, indexes: []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got := planPods(c.v, c.over, now)
			named := func(pods []*corev1.Pod) (all []string) {
				for _, p := range pods {
					all = append(all, p.Name)
				}
				slices.Sort(all)
				return all
			}
			if got.create != c.create || !slices.Equal(got.indexes, c.indexes) || !slices.Equal(named(got.drop), c.drop) || !slices.Equal(named(got.end), c.end) || got.after != c.after {
				t.Errorf("create %d %v, drop %v, end %v, after %v", got.create, got.indexes, named(got.drop), named(got.end), got.after)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	limits := func(j *batchv1.Job) {
		j.Spec.BackoffLimit, j.Spec.ActiveDeadlineSeconds = ptr.To[int32](1), ptr.To[int64](4000)
	}
	with := func(kind batchv1.JobConditionType, reason string) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue, Reason: reason}}
		}
	}
	for name, c := range map[string]struct {
		v     *view
		want  string
		after time.Duration
	}{
		"nothing yet":           {v: seen(nil, "a Running")},
		"within its limits":     {v: seen(limits, "a Running", "b Failed"), after: 400 * time.Second},
		"one failure too many":  {v: seen(limits, "a Failed", "b Failed"), want: "FailureTarget BackoffLimitExceeded"},
		"counted before":        {v: seen(func(j *batchv1.Job) { limits(j); j.Status.Failed = 2 }), want: "FailureTarget BackoffLimitExceeded"},
		"a deadline":            {v: seen(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr.To[int64](3600) }), want: "FailureTarget DeadlineExceeded"},
		"a deadline, suspended": {v: seen(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds, j.Spec.Suspend = ptr.To[int64](60), ptr.To(true) })},
		"restarts in place": {v: seen(func(j *batchv1.Job) {
			limits(j)
			j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		}, "a Running restarts=1"), want: "FailureTarget BackoffLimitExceeded"},
		"a failure that is the Job's": {v: seen(exit(batchv1.PodFailurePolicyActionFailJob, nil), "a Failed code=42"), want: "FailureTarget PodFailurePolicy"},
		"failures that are ignored": {v: seen(exit(batchv1.PodFailurePolicyActionIgnore, limits),
			"a Failed code=42", "b Failed code=42", "c Failed code=1"), after: 400 * time.Second},
		"it was to fail":          {v: seen(with(batchv1.JobFailureTarget, "DeadlineExceeded")), want: "Failed DeadlineExceeded"},
		"it was to succeed":       {v: seen(with(batchv1.JobSuccessCriteriaMet, "SuccessPolicy"), "a Failed"), want: "SuccessCriteriaMet SuccessPolicy"},
		"an index is lost":        {v: seen(perIndex(0), "a Failed index=0")},
		"all indexes ended":       {v: seen(perIndex(0), "a Failed index=0", "b Succeeded index=1", "c Succeeded index=2"), want: "FailureTarget FailedIndexes"},
		"an index ended by rule":  {v: seen(exit(batchv1.PodFailurePolicyActionFailIndex, func(j *batchv1.Job) { perIndex(9)(j); j.Spec.MaxFailedIndexes = ptr.To[int32](0) }), "a Failed index=0 code=42"), want: "FailureTarget MaxFailedIndexesExceeded"},
		"enough for its policy":   {v: seen(func(j *batchv1.Job) { byIndex(j); success(j, "0,2", 1) }, "a Succeeded index=2"), want: "SuccessCriteriaMet SuccessPolicy"},
		"too few for its policy":  {v: seen(func(j *batchv1.Job) { byIndex(j); success(j, "0,2", 2) }, "a Succeeded index=2", "b Succeeded index=1")},
		"any two, by its policy":  {v: seen(func(j *batchv1.Job) { byIndex(j); success(j, "", 2) }, "a Succeeded index=2", "b Succeeded index=1"), want: "SuccessCriteriaMet SuccessPolicy"},
		"an index out of its own": {v: seen(perIndex(0), "a Failed index=8", "b Failed")},
	} {
		t.Run(name, func(t *testing.T) {
			verdict, after := judge(c.v, now)
			got := ""
			if verdict != nil {
				got = fmt.Sprint(verdict.Type, " ", verdict.Reason)
			}
			if got != c.want || after != c.after {
				t.Errorf("%q after %v, want %q after %v", got, after, c.want, c.after)
			}
		})
	}
}

func success(j *batchv1.Job, indexes string, count int32) {
	r := batchv1.SuccessPolicyRule{SucceededCount: &count}
	if indexes != "" {
		r.SucceededIndexes = &indexes
	}
	j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{r}}
}

// A Pod is listed, its finalizer goes, and it is counted: once.
func TestTally(t *testing.T) {
	v := seen(nil, "a Running", "b Succeeded", "c Failed", "d Succeeded untracked", "e Succeeded")
	v.released = sets.New[types.UID]("e")
	counted := count(v, nil, now)
	status := &v.job.Status
	uncounted := status.UncountedTerminatedPods
	if !counted.dirty || fmt.Sprint(uncounted.Succeeded, uncounted.Failed) != "[b] [c]" || len(counted.release) != 2 || counted.held.Len() != 3 {
		t.Fatalf("%+v of %v", counted, uncounted)
	}
	if settle(status, counted.held) || status.Succeeded+status.Failed != 0 {
		t.Errorf("counted with their finalizers: %+v", status)
	}
	counted.held.Delete("b", "c")
	if !settle(status, counted.held) || status.Succeeded != 1 || status.Failed != 1 {
		t.Errorf("not counted: %+v", status)
	}
	// The next pass sees them without, or with and knows.
	again := seen(func(j *batchv1.Job) { j.Status = *status }, "a Running", "b Succeeded untracked", "c Failed")
	again.released = sets.New[types.UID]("c")
	if counted := count(again, nil, now); counted.dirty || len(counted.release) != 0 {
		t.Errorf("counted again: %+v of %+v", counted, again.job.Status)
	}
}

func TestTallyIndexes(t *testing.T) {
	v := seen(perIndex(5), "a Succeeded index=0", "b Failed index=1", "c Failed index=2 failures=5", "d Succeeded index=9")
	counted := count(v, nil, now)
	status := v.job.Status
	if status.CompletedIndexes != "0" || *status.FailedIndexes != "2" || status.Succeeded != 1 || fmt.Sprint(status.UncountedTerminatedPods.Failed) != "[c]" {
		t.Errorf("%+v", status)
	}
	released := map[string]bool{}
	for _, p := range counted.release {
		released[p.Name] = true
	}
	if !released["a"] || released["b"] || !released["c"] || !released["d"] {
		t.Errorf("released %v: the failed Pod of an index stays until it is replaced", released)
	}
}

func TestTallyHasALimit(t *testing.T) {
	var pods []string
	for i := range 700 {
		pods = append(pods, fmt.Sprintf("p%d Succeeded", i))
	}
	v := seen(nil, pods...)
	if counted := count(v, nil, now); !counted.more || len(counted.release) != 500 || len(v.job.Status.UncountedTerminatedPods.Succeeded) != 500 {
		t.Errorf("%d released, more %v", len(counted.release), counted.more)
	}
}

func TestFinish(t *testing.T) {
	ends := func(over *batchv1.JobCondition, terminating int32, pods ...string) (string, []note) {
		v := seen(nil, pods...)
		counted := count(v, over, now)
		counted.held.Clear()
		settle(&v.job.Status, counted.held)
		notes := finish(v.job, counted, terminating)
		var conditions []string
		for _, c := range v.job.Status.Conditions {
			conditions = append(conditions, string(c.Type))
		}
		return strings.Join(conditions, ","), notes
	}
	met := condition(batchv1.JobSuccessCriteriaMet, "CompletionsReached", "m", now)
	if got, notes := ends(met, 0, "a Succeeded"); got != "SuccessCriteriaMet,Complete" || len(notes) != 1 || notes[0].reason != "Completed" {
		t.Errorf("%s, %v", got, notes)
	}
	if got, notes := ends(met, 0, "a Succeeded", "b Succeeded", "c Succeeded", "d Succeeded"); len(notes) != 2 || notes[0].reason != "TooManySucceededPods" {
		t.Errorf("%s, %v", got, notes)
	}
	if got, notes := ends(met, 1, "a Succeeded"); got != "SuccessCriteriaMet" || len(notes) != 0 {
		t.Errorf("ended while a Pod terminates: %s, %v", got, notes)
	}
	if got, notes := ends(failing("BackoffLimitExceeded", "m", now), 0, "a Running"); got != "FailureTarget,Failed" || len(notes) != 1 || notes[0].reason != "BackoffLimitExceeded" {
		t.Errorf("%s, %v", got, notes)
	}
	if got, notes := ends(nil, 0, "a Succeeded"); got != "" || len(notes) != 0 {
		t.Errorf("%s, %v", got, notes)
	}
}

func TestSuspend(t *testing.T) {
	job := &batchv1.Job{}
	if notes := suspend(job, now); len(notes) != 0 || len(job.Status.Conditions) != 0 {
		t.Errorf("%v, %v: one that never was suspended is not resumed", notes, job.Status.Conditions)
	}
	job.Spec.Suspend, job.Status.StartTime = ptr.To(true), &metav1.Time{Time: now}
	if notes := suspend(job, now); len(notes) != 1 || notes[0].reason != "Suspended" || job.Status.StartTime != nil {
		t.Errorf("%v, %v", notes, job.Status)
	}
	if notes := suspend(job, now); len(notes) != 0 {
		t.Errorf("twice: %v", notes)
	}
	job.Spec.Suspend = nil
	if notes := suspend(job, now); len(notes) != 1 || notes[0].reason != "Resumed" || job.Status.StartTime == nil || len(job.Status.Conditions) != 1 {
		t.Errorf("%v, %v", notes, job.Status)
	}
}

func TestBackoff(t *testing.T) {
	pods := func(texts ...string) (all []*corev1.Pod) {
		for _, text := range texts {
			all = append(all, podOf(text))
		}
		return all
	}
	for name, c := range map[string]struct {
		before            backoff
		succeeded, failed []*corev1.Pod
		failures          int
		remaining         time.Duration
	}{
		"nothing":                     {},
		"the first failure":           {failed: pods("a Failed ended=3s"), failures: 1, remaining: 7 * time.Second},
		"the third, in all":           {before: backoff{failures: 1}, failed: pods("a Failed ended=9s", "b Failed ended=3s"), failures: 3, remaining: 37 * time.Second},
		"at most ten minutes":         {before: backoff{failures: 100}, failed: pods("a Failed ended=0s"), failures: 101, remaining: 10 * time.Minute},
		"a success":                   {before: backoff{failures: 9, last: now}, succeeded: pods("a Succeeded ended=3s")},
		"a failure before a success":  {succeeded: pods("a Succeeded ended=3s"), failed: pods("b Failed ended=4s")},
		"a failure after a success":   {before: backoff{failures: 9}, succeeded: pods("a Succeeded ended=3s"), failed: pods("b Failed ended=4s", "c Failed ended=1s"), failures: 1, remaining: 9 * time.Second},
		"it is over":                  {failed: pods("a Failed ended=1h"), failures: 1},
		"nothing new keeps the count": {before: backoff{failures: 2, last: now}, failures: 2, remaining: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.before.after(c.succeeded, c.failed)
			if b.failures != c.failures || b.remaining(now) != c.remaining {
				t.Errorf("%d failures, %v left; want %d, %v", b.failures, b.remaining(now), c.failures, c.remaining)
			}
		})
	}
}
