package job

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/features"
)

// judge tells why the Job is over, or when the answer changes by itself. Once
// it has been written that it will end, that stands. Failures go before
// successes, the pod failure policy before limits.
func judge(v *view, now time.Time) (verdict *batchv1.JobCondition, after time.Duration) {
	job := v.job
	if c := standing(&job.Status, batchv1.JobSuccessCriteriaMet); c != nil {
		return c.DeepCopy(), 0
	}
	if c := standing(&job.Status, batchv1.JobFailureTarget); c != nil {
		return condition(batchv1.JobFailed, c.Reason, c.Message, now), 0
	}
	if message := forbidden(v); message != "" {
		return failing(batchv1.JobReasonPodFailurePolicy, message, now), 0
	}
	if v.failed > int(*job.Spec.BackoffLimit) || restartedTooOften(v) {
		return failing(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit", now), 0
	}
	if limit := job.Spec.ActiveDeadlineSeconds; limit != nil && !suspended(job) && job.Status.StartTime != nil {
		after = job.Status.StartTime.Add(time.Duration(*limit) * time.Second).Sub(now)
		if after <= 0 {
			return failing(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline", now), 0
		}
	}
	if !indexed(job) {
		return nil, after
	}
	if lost := v.lost.count(); lost > 0 {
		if limit := job.Spec.MaxFailedIndexes; limit != nil && lost > int(*limit) {
			return failing(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes", now), 0
		}
		if lost+v.now.count() >= int(*job.Spec.Completions) {
			return failing(batchv1.JobReasonFailedIndexes, "Job has failed indexes", now), 0
		}
	}
	if message := metBy(job.Spec.SuccessPolicy, int(*job.Spec.Completions), v.now); message != "" {
		return condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message, now), 0
	}
	return nil, after
}

func failing(reason, message string, now time.Time) *batchv1.JobCondition {
	return condition(batchv1.JobFailureTarget, reason, message, now)
}

// forbidden is what the pod failure policy says of the first Pod whose failure
// is the Job's.
func forbidden(v *view) string {
	if v.job.Spec.PodFailurePolicy == nil {
		return ""
	}
	for _, pod := range v.pods {
		if failed(v.job, pod) {
			if message := rule(v.job.Spec.PodFailurePolicy, pod).message; message != "" {
				return message
			}
		}
	}
	return ""
}

// restartedTooOften counts the restarts in place of containers.
func restartedTooOften(v *view) bool {
	if v.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, pod := range v.pods {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for _, containers := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for _, c := range containers {
				restarts += c.RestartCount
			}
		}
	}
	return restarts > 0 && restarts >= *v.job.Spec.BackoffLimit
}

// done is what became of a change.
type done struct {
	// active, ready and terminating are how many there are now.
	active, ready, terminating int32
	// ended is whether all Pods of a Job that is over were deleted.
	ended bool
	// failure is why not everything went well.
	failure error
}

// note is an event to record.
type note struct{ kind, reason, message string }

// conclude brings the status up to what was done. It returns why the Job is
// over now, what to tell, and whether the status must be written for it.
func conclude(v *view, verdict *batchv1.JobCondition, d done, now time.Time) (_ *batchv1.JobCondition, notes []note, dirty bool) {
	status := &v.job.Status
	switch {
	case verdict != nil:
		if !d.ended || !v.settled {
			verdict = nil // Pods may be left that the cache does not have
		}
	case complete(v, d):
		verdict = condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", now)
	case v.settled && v.job.DeletionTimestamp == nil:
		if notes = suspend(v.job, now); len(notes) > 0 {
			dirty = true
		}
	}
	changed := func(was *int32, is int32) bool { return was == nil || *was != is }
	dirty = dirty || status.Active != d.active || changed(status.Ready, d.ready) || changed(status.Terminating, d.terminating)
	status.Active, status.Ready, status.Terminating = d.active, &d.ready, &d.terminating
	return verdict, notes, dirty
}

// complete tells whether enough Pods have succeeded; any one, without a number
// of completions.
func complete(v *view, d done) bool {
	if d.active != 0 {
		return false
	}
	if v.job.Spec.Completions == nil {
		return v.succeeded > 0
	}
	return v.succeeded >= int(*v.job.Spec.Completions)
}

// suspend says in the status whether the Job is suspended. A Job that goes on
// starts anew: its deadline counts from here.
func suspend(job *batchv1.Job, now time.Time) []note {
	status := &job.Status
	i := 0
	for i < len(status.Conditions) && status.Conditions[i].Type != batchv1.JobSuspended {
		i++
	}
	known := i < len(status.Conditions)
	c := condition(batchv1.JobSuspended, "JobSuspended", "Job suspended", now)
	if !suspended(job) {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "JobResumed", "Job resumed"
	}
	switch {
	case !known && !suspended(job):
		return nil
	case !known:
		status.Conditions = append(status.Conditions, *c)
	case status.Conditions[i].Status == c.Status && status.Conditions[i].Reason == c.Reason && status.Conditions[i].Message == c.Message:
		return nil
	default:
		status.Conditions[i] = *c
	}
	if suspended(job) {
		if utilfeature.DefaultFeatureGate.Enabled(features.MutableSchedulingDirectivesForSuspendedJobs) {
			status.StartTime = nil
		}
		return []note{{corev1.EventTypeNormal, "Suspended", c.Message}}
	}
	at := metav1.NewTime(now)
	status.StartTime = &at
	return []note{{corev1.EventTypeNormal, "Resumed", c.Message}}
}
