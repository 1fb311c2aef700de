package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	upstream "k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/utils/ptr"
)

// tally are the Pods that one pass counts.
type tally struct {
	// release are the Pods whose finalizer goes when the status is written.
	release []*corev1.Pod
	// held are the Pods that have theirs: what the status lists and is not
	// among them goes into the counters.
	held sets.Set[types.UID]
	// dirty is whether the status must be written first.
	dirty bool
	// more is whether Pods are left for the next pass.
	more bool
	// end is the condition with which the Job ends.
	end *batchv1.JobCondition
}

// count lists in the status the Pods that have ended, and says why the Job is
// about to end if it is over.
func count(v *view, over *batchv1.JobCondition, now time.Time) tally {
	status := &v.job.Status
	t := tally{held: sets.New[types.UID]()}
	pods := v.pods
	if indexed(v.job) {
		pods = slices.Clone(pods)
		slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return indexOf(a) - indexOf(b) })
	}
	pods = slices.DeleteFunc(slices.Clone(pods), func(pod *corev1.Pod) bool { return !tracked(pod) || v.released.Has(pod.UID) })
	for _, pod := range pods {
		t.held.Insert(pod.UID)
	}
	succeeded, lost := sets.New(status.UncountedTerminatedPods.Succeeded...), sets.New(status.UncountedTerminatedPods.Failed...)
	t.dirty = settle(status, t.held)
	uncounted := status.UncountedTerminatedPods
	var newIndexes []int
	for _, pod := range pods {
		if !v.releases(pod, over) {
			continue
		}
		t.release = append(t.release, pod)
		switch {
		case pod.Status.Phase == corev1.PodSucceeded && !lost.Has(pod.UID):
			if i := validIndex(v.job, pod); indexed(v.job) {
				if i != noIndex && !v.before.has(i) {
					newIndexes, t.dirty = append(newIndexes, i), true
				}
			} else if !succeeded.Has(pod.UID) {
				uncounted.Succeeded, t.dirty = append(uncounted.Succeeded, pod.UID), true
			}
		case !failed(v.job, pod) && (over == nil || over.Type == batchv1.JobSuccessCriteriaMet):
		case lost.Has(pod.UID) || indexed(v.job) && validIndex(v.job, pod) == noIndex:
		case rule(v.job.Spec.PodFailurePolicy, pod).counts():
			// Of a Job that has failed, all Pods have.
			uncounted.Failed, t.dirty = append(uncounted.Failed, pod.UID), true
		}
		if len(newIndexes)+len(uncounted.Succeeded)+len(uncounted.Failed) >= upstream.MaxUncountedPods {
			t.more = true // the list has its limit; the next pass is near
			break
		}
	}
	if indexed(v.job) {
		t.dirty = v.writeIndexes(newIndexes) || t.dirty
	}
	if over != nil {
		t.dirty = t.ending(status, over, now) || t.dirty
	}
	return t
}

// releases tells whether a Pod's finalizer may go.
func (v *view) releases(pod *corev1.Pod, over *batchv1.JobCondition) bool {
	if v.job.DeletionTimestamp != nil || over != nil || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if !failed(v.job, pod) {
		return false
	}
	kept := v.kept[indexOf(pod)]
	return kept == nil || kept.UID != pod.UID
}

// writeIndexes brings the indexes of the status up to date, and tells whether
// they were not.
func (v *view) writeIndexes(more []int) bool {
	status := &v.job.Status
	all := v.now.with(more)
	dirty := all.String() != status.CompletedIndexes
	status.Succeeded, status.CompletedIndexes = int32(all.count()), all.String()
	var lost *string
	if perIndexLimit(v.job) {
		lost = ptr.To(v.lost.String())
	}
	if !ptr.Equal(lost, status.FailedIndexes) {
		status.FailedIndexes, dirty = lost, true
	}
	return dirty
}

// ending writes down why the Job will end, if it is not yet, and keeps how.
func (t *tally) ending(status *batchv1.JobStatus, over *batchv1.JobCondition, now time.Time) (dirty bool) {
	t.end = over
	switch over.Type {
	case batchv1.JobFailureTarget:
		status.Conditions = append(status.Conditions, *over)
		t.end, dirty = condition(batchv1.JobFailed, over.Reason, over.Message, now), true
	case batchv1.JobSuccessCriteriaMet:
		if standing(status, over.Type) == nil {
			status.Conditions, dirty = append(status.Conditions, *over), true
		}
		t.end = condition(batchv1.JobComplete, over.Reason, over.Message, now)
	}
	return dirty
}

// settle moves what the status lists, and has no finalizer any more, into the
// counters. It tells whether there was any.
func settle(status *batchv1.JobStatus, held sets.Set[types.UID]) bool {
	uncounted := status.UncountedTerminatedPods
	if uncounted == nil {
		return false
	}
	move := func(list []types.UID, counter *int32) []types.UID {
		left := slices.DeleteFunc(slices.Clone(list), func(uid types.UID) bool { return !held.Has(uid) })
		*counter += int32(len(list) - len(left))
		return left
	}
	before := len(uncounted.Succeeded) + len(uncounted.Failed)
	uncounted.Succeeded = move(uncounted.Succeeded, &status.Succeeded)
	uncounted.Failed = move(uncounted.Failed, &status.Failed)
	return len(uncounted.Succeeded)+len(uncounted.Failed) != before
}

// finish ends the Job if all its Pods are counted and gone, and tells the end.
func finish(job *batchv1.Job, t tally, terminating int32) []note {
	uncounted := job.Status.UncountedTerminatedPods
	if t.end == nil || t.more || terminating > 0 || uncounted != nil && len(uncounted.Succeeded)+len(uncounted.Failed) > 0 {
		return nil
	}
	job.Status.Conditions = append(job.Status.Conditions, *t.end)
	if t.end.Type != batchv1.JobComplete {
		return []note{{corev1.EventTypeWarning, t.end.Reason, t.end.Message}}
	}
	job.Status.CompletionTime = &t.end.LastTransitionTime
	var notes []note
	if job.Spec.Completions != nil && job.Status.Succeeded > *job.Spec.Completions {
		notes = append(notes, note{corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached"})
	}
	return append(notes, note{corev1.EventTypeNormal, "Completed", "Job completed"})
}
