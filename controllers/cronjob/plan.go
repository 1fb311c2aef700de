package cronjob

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/controller/job/util"
	"k8s.io/utils/ptr"
)

// note is an event to record.
type note struct{ kind, reason, message string }

func normal(reason, format string, args ...any) note {
	return note{corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...)}
}

func warning(reason, format string, args ...any) note {
	return note{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}

// expired are the Jobs that have ended and are more than the history limits
// allow, oldest first.
func expired(cj *batchv1.CronJob, jobs []*batchv1.Job) []*batchv1.Job {
	var old []*batchv1.Job
	for _, h := range []struct {
		limit *int32
		how   batchv1.JobConditionType
	}{{cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobComplete}, {cj.Spec.FailedJobsHistoryLimit, batchv1.JobFailed}} {
		if h.limit == nil {
			continue
		}
		var ended []*batchv1.Job
		for _, job := range jobs {
			if _, how := util.FinishedCondition(job); how == h.how {
				ended = append(ended, job)
			}
		}
		slices.SortFunc(ended, byStart)
		old = append(old, ended[:max(0, len(ended)-int(*h.limit))]...)
	}
	return old
}

// byStart puts Jobs that never started last.
func byStart(a, b *batchv1.Job) int {
	at, bt := a.Status.StartTime, b.Status.StartTime
	switch {
	case at == nil && bt != nil:
		return 1
	case at != nil && bt == nil:
		return -1
	case at.Equal(bt):
		return strings.Compare(a.Name, b.Name)
	case at.Before(bt):
		return -1
	}
	return 1
}

// isActive tells whether the status lists the Job.
func isActive(cj *batchv1.CronJob, uid types.UID) bool {
	return slices.ContainsFunc(cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

// dropActive takes a Job off the status' list.
func dropActive(cj *batchv1.CronJob, uid types.UID) {
	cj.Status.Active = slices.DeleteFunc(slices.Clone(cj.Status.Active), func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

// account brings the status up to what became of the Jobs. It returns what to
// tell, whether the status has changed, and the Jobs that run and are not in
// the list.
func account(cj *batchv1.CronJob, jobs []*batchv1.Job) (notes []note, dirty bool, unknown []*batchv1.Job) {
	for _, job := range jobs {
		finished, how := util.FinishedCondition(job)
		switch listed := isActive(cj, job.UID); {
		case !finished && !listed:
			unknown = append(unknown, job)
		case finished && listed:
			dropActive(cj, job.UID)
			notes, dirty = append(notes, normal("SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, how)), true
		}
		if at, last := job.Status.CompletionTime, cj.Status.LastSuccessfulTime; how == batchv1.JobComplete && at != nil && (last == nil || at.After(last.Time)) {
			cj.Status.LastSuccessfulTime, dirty = at.DeepCopy(), true
		}
	}
	return notes, dirty, unknown
}

// missing are the Jobs that the status lists and the cache does not have.
func missing(cj *batchv1.CronJob, jobs []*batchv1.Job) []corev1.ObjectReference {
	return slices.DeleteFunc(slices.Clone(cj.Status.Active), func(ref corev1.ObjectReference) bool {
		return slices.ContainsFunc(jobs, func(job *batchv1.Job) bool { return job.UID == ref.UID })
	})
}

// step is what to do now.
type step struct {
	// start is the time of the Job to start; zero for none.
	start time.Time
	// replace says to delete what runs first.
	replace bool
	// after is how long it is until the next start; zero for never.
	after time.Duration
	notes []note
}

// decide tells whether a Job is to start. Nothing changes about a CronJob that
// is deleted, suspended, or makes no sense, until somebody changes it.
func decide(cj *batchv1.CronJob, now time.Time) step {
	var s step
	tell := func(n note) { s.notes = append(s.notes, n) }
	if cj.DeletionTimestamp != nil {
		return s
	}
	if _, err := location(cj); err != nil {
		tell(warning("UnknownTimeZone", "invalid timeZone: %q: %s", *cj.Spec.TimeZone, err))
		return s
	}
	if ptr.Deref(cj.Spec.Suspend, false) {
		return s
	}
	if ownZone(cj) {
		tell(warning("UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", cj.Spec.Schedule))
	}
	schedule, err := parse(cj)
	if err != nil {
		tell(warning("UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err))
		return s
	}
	p, err := due(cj, schedule, now)
	if err != nil {
		tell(warning("InvalidSchedule", "invalid schedule: %s : %s", cj.Spec.Schedule, err))
		return s
	}
	s.after = next(cj, schedule, now)
	if p.last.IsZero() {
		return s
	}
	if p.missed > tooMany {
		tell(warning("TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"))
	}
	deadline := cj.Spec.StartingDeadlineSeconds
	switch {
	case deadline != nil && p.last.Add(time.Duration(*deadline)*time.Second).Before(now):
		tell(warning("MissSchedule", "Missed scheduled time to start a job: %s", p.last.UTC().Format(time.RFC1123Z)))
	case started(cj, p.last):
	case cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(cj.Status.Active) > 0:
		tell(normal("JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid"))
	default:
		s.start, s.replace = p.last, cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent
	}
	return s
}

// started tells whether the Job of a time was started before.
func started(cj *batchv1.CronJob, at time.Time) bool {
	return cj.Status.LastScheduleTime.Equal(&metav1.Time{Time: at}) ||
		slices.ContainsFunc(cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.Name == jobName(cj, at) })
}

// jobName is the name of the Job of a time.
func jobName(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}

// jobFor is the Job of a time.
func jobFor(cj *batchv1.CronJob, at time.Time) (*batchv1.Job, error) {
	zone, err := location(cj)
	if err != nil {
		return nil, err
	}
	template := cj.Spec.JobTemplate.DeepCopy()
	annotations := map[string]string{}
	maps.Copy(annotations, template.Annotations)
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: jobName(cj, at), Labels: template.Labels, Annotations: annotations,
			CreationTimestamp: metav1.Time{Time: at},
			OwnerReferences:   []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: template.Spec,
	}, nil
}
