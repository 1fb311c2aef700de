package ttlafterfinished

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// plan tells whether to delete the Job, or when to look again; neither for one
// that has not ended, or has no time to live.
func plan(job *batchv1.Job, now time.Time) (expired bool, after time.Duration) {
	ttl := job.Spec.TTLSecondsAfterFinished
	if job.DeletionTimestamp != nil || ttl == nil {
		return false, 0
	}
	for _, c := range job.Status.Conditions {
		if (c.Type != batchv1.JobComplete && c.Type != batchv1.JobFailed) || c.Status != corev1.ConditionTrue || c.LastTransitionTime.IsZero() {
			continue
		}
		left := c.LastTransitionTime.Add(time.Duration(*ttl) * time.Second).Sub(now)
		return left <= 0, max(0, left)
	}
	return false, 0
}
