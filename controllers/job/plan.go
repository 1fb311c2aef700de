package job

import (
	"slices"
	"sort"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
	upstream "k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/utils/ptr"
)

// view is a Job and its Pods as one pass sees them.
type view struct {
	// job is a copy. Its status becomes the next one.
	job    *batchv1.Job
	pods   []*corev1.Pod
	active []*corev1.Pod
	// settled is whether the cache has all Pods that we made and deleted.
	settled bool
	// released are Pods whose finalizer we removed, and the cache may still show.
	released sets.Set[types.UID]
	backoff  backoff

	// What follows is worked out by newView.

	succeeded, failed  int
	ready, terminating int32
	// before and now are the indexes that had and have succeeded.
	before, now indexes
	// lost are the indexes that have failed; only with a limit per index.
	lost indexes
	// kept are the Pods, by index, that failed last and are not replaced yet.
	// Their finalizer stays until then: they hold the count of failures.
	kept map[int]*corev1.Pod
}

// newView works out what the Pods amount to.
func newView(v view) *view {
	for _, pod := range v.active {
		if podutil.IsPodReady(pod) {
			v.ready++
		}
	}
	v.terminating = controller.CountTerminatingPods(v.pods)
	status := &v.job.Status
	if status.UncountedTerminatedPods == nil {
		status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	uncounted := status.UncountedTerminatedPods
	var succeeded, lost []*corev1.Pod
	ignored := 0
	for _, pod := range v.pods {
		switch {
		case !v.uncounted(pod):
		case pod.Status.Phase == corev1.PodSucceeded && !slices.Contains(uncounted.Succeeded, pod.UID):
			succeeded = append(succeeded, pod)
		case failed(v.job, pod) && !slices.Contains(uncounted.Failed, pod.UID):
			lost = append(lost, pod)
			if !rule(v.job.Spec.PodFailurePolicy, pod).counts() {
				ignored++
			}
		}
	}
	v.backoff = v.backoff.after(succeeded, lost)
	v.succeeded = int(status.Succeeded) + len(succeeded) + len(uncounted.Succeeded)
	v.failed = int(status.Failed) + len(lost) - ignored + len(uncounted.Failed)
	if indexed(v.job) {
		v.lookAtIndexes()
	}
	return &v
}

// uncounted tells whether a Pod has not been counted yet, and can be.
func (v *view) uncounted(pod *corev1.Pod) bool {
	return tracked(pod) && !v.released.Has(pod.UID) && (!indexed(v.job) || validIndex(v.job, pod) != noIndex)
}

func (v *view) lookAtIndexes() {
	completions := int(*v.job.Spec.Completions)
	v.before = parseIndexes(v.job.Status.CompletedIndexes, completions)
	var succeeded, lost []int
	for _, pod := range v.pods {
		i := validIndex(v.job, pod)
		if i == noIndex || !tracked(pod) {
			continue
		}
		if pod.Status.Phase == corev1.PodSucceeded {
			succeeded = append(succeeded, i)
		}
		if perIndexLimit(v.job) && lastOfIndex(v.job, pod) {
			lost = append(lost, i)
		}
	}
	v.now = v.before.with(succeeded)
	v.succeeded = v.now.count()
	if perIndexLimit(v.job) {
		v.lost = parseIndexes(ptr.Deref(v.job.Status.FailedIndexes, ""), completions).with(lost)
		v.kept = v.unreplaced()
	}
}

// lastOfIndex tells whether a Pod's failure is one too many for its index.
func lastOfIndex(job *batchv1.Job, pod *corev1.Pod) bool {
	if !failed(job, pod) {
		return false
	}
	ruled := rule(job.Spec.PodFailurePolicy, pod)
	if ruled.action == batchv1.PodFailurePolicyActionFailIndex {
		return true
	}
	before, _ := indexFailures(pod)
	return ruled.counts() && before >= int(*job.Spec.BackoffLimitPerIndex)
}

// unreplaced are the last failed Pods of the indexes that need another Pod.
func (v *view) unreplaced() map[int]*corev1.Pod {
	taken := v.now.union(v.lost).with(indexesOf(v.active))
	last := map[int]*corev1.Pod{}
	for _, pod := range v.pods {
		i := validIndex(v.job, pod)
		if i == noIndex || !v.uncounted(pod) || !failed(v.job, pod) || taken.has(i) {
			continue
		}
		if other := last[i]; other == nil || !earlier(pod, other) {
			last[i] = pod
		}
	}
	return last
}

// earlier tells whether a Pod of an index failed before another did.
func earlier(a, b *corev1.Pod) bool {
	counted, ignored := indexFailures(a)
	countedB, ignoredB := indexFailures(b)
	return counted+ignored < countedB+ignoredB || endedAt(a).Before(endedAt(b))
}

func indexesOf(pods []*corev1.Pod) []int {
	var all []int
	for _, pod := range pods {
		if i := indexOf(pod); i != noIndex {
			all = append(all, i)
		}
	}
	return all
}

// change is what to do about the Pods.
type change struct {
	// end are Pods of a Job that is over. They count, so their finalizer stays.
	end []*corev1.Pod
	// drop are Pods too many. They do not count.
	drop []*corev1.Pod
	// create is how many Pods to make; for the indexes, if the Job has them.
	create  int
	indexes []int
	// after is when to look again, as failed Pods are not replaced at once.
	after time.Duration
}

// planPods compares the Pods with what the Job asks for. At most upstream's
// burst is changed at a time, and Pods are deleted before others are made; the
// events of these bring the rest. Nothing is done while the cache is behind, not
// even for a Job that is over: what is deleted then would be judged again, as
// Pods that have failed.
func planPods(v *view, over bool, now time.Time) change {
	spec := v.job.Spec
	switch {
	case !v.settled:
		return change{}
	case over:
		return change{end: v.active}
	case v.job.DeletionTimestamp != nil:
		return change{}
	case suspended(v.job):
		return change{drop: surplus(v, len(v.active))}
	}
	want := int(*spec.Parallelism)
	if spec.Completions != nil {
		want = max(0, min(want, int(*spec.Completions)-v.succeeded))
	} else if v.succeeded > 0 {
		want = len(v.active) // the first success is the Job's; the rest may end
	}
	if drop := surplus(v, max(0, len(v.active)-want)); len(drop) > 0 {
		return change{drop: drop[:min(len(drop), upstream.MaxPodCreateDeletePerSync)]}
	}
	missing := want - len(v.active)
	if replacesFailedOnly(v.job) {
		missing -= int(v.terminating)
	}
	if missing <= 0 {
		return change{}
	}
	if !perIndexLimit(v.job) {
		if wait := v.backoff.remaining(now); wait > 0 {
			return change{after: wait}
		}
	}
	missing = min(missing, upstream.MaxPodCreateDeletePerSync)
	if !indexed(v.job) {
		return change{create: missing}
	}
	return planIndexes(v, missing, now)
}

// planIndexes picks the indexes that need a Pod: the lowest ones.
func planIndexes(v *view, n int, now time.Time) change {
	taken := v.now.union(v.lost).with(indexesOf(v.active))
	if replacesFailedOnly(v.job) {
		taken = taken.with(indexesOf(controller.FilterTerminatingPods(v.pods)))
	}
	var c change
	for _, i := range taken.missing(n, int(*v.job.Spec.Completions)) {
		if pod := v.kept[i]; pod != nil {
			counted, ignored := indexFailures(pod)
			if wait := (backoff{failures: counted + ignored + 1, last: endedAt(pod)}).remaining(now); wait > 0 {
				c.after = soonest(c.after, wait)
				continue
			}
		}
		c.indexes = append(c.indexes, i)
	}
	c.create = len(c.indexes)
	return c
}

// soonest is the smaller of two waits, of which zero is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// surplus are the Pods to delete, n or more: first those without an index of
// the Job's, and those of an index that has another Pod; then those not yet
// scheduled, not yet ready, young.
func surplus(v *view, n int) []*corev1.Pod {
	left := slices.Clone(v.active)
	var drop []*corev1.Pod
	if indexed(v.job) {
		left = left[:0]
		byIndex := map[int][]*corev1.Pod{}
		for _, pod := range v.active {
			i := validIndex(v.job, pod)
			byIndex[i] = append(byIndex[i], pod)
		}
		for i, same := range byIndex {
			sort.Sort(controller.ActivePods(same))
			keep := len(same) - 1
			if i == noIndex {
				keep = len(same)
			}
			drop, left = append(drop, same[:keep]...), append(left, same[keep:]...)
		}
	}
	if more := n - len(drop); more > 0 {
		sort.Sort(controller.ActivePods(left))
		drop = append(drop, left[:more]...)
	}
	return drop
}

// condition makes a Job's condition.
func condition(kind batchv1.JobConditionType, reason, message string, now time.Time) *batchv1.JobCondition {
	return &batchv1.JobCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		LastProbeTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
}

// standing is the condition of the type if it is there and true, or nil.
func standing(status *batchv1.JobStatus, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range status.Conditions {
		if c := &status.Conditions[i]; c.Type == kind && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}
