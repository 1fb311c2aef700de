package ttlafterfinished

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestPlan(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ended := func(ttl *int32, kind batchv1.JobConditionType, status corev1.ConditionStatus, ago time.Duration) *batchv1.Job {
		job := &batchv1.Job{Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ttl}}
		job.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: status, LastTransitionTime: metav1.NewTime(now.Add(-ago))}}
		return job
	}
	deleted := ended(ptr.To[int32](0), batchv1.JobComplete, corev1.ConditionTrue, time.Hour)
	deleted.DeletionTimestamp = &metav1.Time{Time: now}
	undated := ended(ptr.To[int32](10), batchv1.JobFailed, corev1.ConditionTrue, 0)
	undated.Status.Conditions[0].LastTransitionTime = metav1.Time{}
	for name, c := range map[string]struct {
		job     *batchv1.Job
		expired bool
		after   time.Duration
	}{
		"runs":                     {job: &batchv1.Job{Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ptr.To[int32](0)}}},
		"is about to fail":         {job: ended(ptr.To[int32](0), batchv1.JobFailureTarget, corev1.ConditionTrue, time.Hour)},
		"a condition that is not":  {job: ended(ptr.To[int32](0), batchv1.JobComplete, corev1.ConditionFalse, time.Hour)},
		"no time to live":          {job: ended(nil, batchv1.JobComplete, corev1.ConditionTrue, time.Hour)},
		"is deleted already":       {job: deleted},
		"at once":                  {job: ended(ptr.To[int32](0), batchv1.JobComplete, corev1.ConditionTrue, 0), expired: true},
		"later":                    {job: ended(ptr.To[int32](100), batchv1.JobFailed, corev1.ConditionTrue, time.Minute), after: 40 * time.Second},
		"over":                     {job: ended(ptr.To[int32](60), batchv1.JobFailed, corev1.ConditionTrue, time.Minute), expired: true},
		"ended in the future":      {job: ended(ptr.To[int32](10), batchv1.JobFailed, corev1.ConditionTrue, -time.Minute), after: 70 * time.Second},
		"no time of its condition": {job: undated},
	} {
		t.Run(name, func(t *testing.T) {
			if expired, after := plan(c.job, now); expired != c.expired || after != c.after {
				t.Errorf("%v, %v; want %v, %v", expired, after, c.expired, c.after)
			}
		})
	}
}
