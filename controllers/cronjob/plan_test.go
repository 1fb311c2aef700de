package cronjob

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
	"k8s.io/utils/ptr"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t
}

// cronJob is a CronJob called c that was made at a time.
func cronJob(schedule, made string, change func(*batchv1.CronJob)) *batchv1.CronJob {
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns", UID: "c", CreationTimestamp: metav1.Time{Time: at(made)}}}
	cj.Spec.Schedule = schedule
	if change != nil {
		change(cj)
	}
	return cj
}

// job is one with a UID that is its name; kind is how it ended, if it did.
func job(name string, kind batchv1.JobConditionType, started string) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	if kind != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue}}
	}
	if started != "" {
		j.Status.StartTime = &metav1.Time{Time: at(started)}
	}
	return j
}

func active(cj *batchv1.CronJob, jobs ...string) {
	for _, name := range jobs {
		cj.Status.Active = append(cj.Status.Active, corev1.ObjectReference{Name: name, UID: types.UID(name)})
	}
}

func TestExpired(t *testing.T) {
	jobs := []*batchv1.Job{
		job("never", batchv1.JobComplete, ""),
		job("third", batchv1.JobComplete, "2026-01-03 00:00:00"),
		job("first", batchv1.JobComplete, "2026-01-01 00:00:00"),
		job("second", batchv1.JobComplete, "2026-01-02 00:00:00"),
		job("twin", batchv1.JobComplete, "2026-01-02 00:00:00"),
		job("bad2", batchv1.JobFailed, "2026-01-02 00:00:00"),
		job("bad1", batchv1.JobFailed, "2026-01-01 00:00:00"),
		job("runs", "", "2026-01-01 00:00:00"),
		job("suspended", batchv1.JobSuspended, "2026-01-01 00:00:00"),
	}
	for name, c := range map[string]struct {
		good, bad *int32
		want      string
	}{
		"no limits":     {want: ""},
		"none may stay": {good: ptr.To[int32](0), bad: ptr.To[int32](0), want: "first second twin third never bad1 bad2"},
		"the defaults":  {good: ptr.To[int32](3), bad: ptr.To[int32](1), want: "first second bad1"},
		"good ones":     {good: ptr.To[int32](1), want: "first second twin third"},
		"as many":       {good: ptr.To[int32](5), bad: ptr.To[int32](2), want: ""},
		"more":          {good: ptr.To[int32](50), bad: ptr.To[int32](20), want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			cj := cronJob(yearly, "2026-01-01 00:00:00", func(cj *batchv1.CronJob) {
				cj.Spec.SuccessfulJobsHistoryLimit, cj.Spec.FailedJobsHistoryLimit = c.good, c.bad
			})
			var got []string
			for _, j := range expired(cj, jobs) {
				got = append(got, j.Name)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

const yearly = "0 0 1 1 *"

func TestAccount(t *testing.T) {
	cj := cronJob(yearly, "2026-01-01 00:00:00", func(cj *batchv1.CronJob) {
		active(cj, "runs", "done", "gone")
		cj.Status.LastSuccessfulTime = &metav1.Time{Time: at("2026-01-02 00:00:00")}
	})
	done := job("done", batchv1.JobComplete, "")
	done.Status.CompletionTime = &metav1.Time{Time: at("2026-01-03 00:00:00")}
	earlier := job("earlier", batchv1.JobComplete, "")
	earlier.Status.CompletionTime = &metav1.Time{Time: at("2026-01-01 00:00:00")}
	jobs := []*batchv1.Job{job("runs", "", ""), done, earlier, job("stranger", "", ""), job("failed", batchv1.JobFailed, "")}
	notes, dirty, unknown := account(cj, jobs)
	if len(notes) != 1 || notes[0].message != "Saw completed job: done, condition: Complete" || !dirty {
		t.Errorf("%v, dirty %v", notes, dirty)
	}
	if len(unknown) != 1 || unknown[0].Name != "stranger" {
		t.Errorf("unknown: %v", unknown)
	}
	if !cj.Status.LastSuccessfulTime.Time.Equal(at("2026-01-03 00:00:00")) {
		t.Errorf("last successful: %v", cj.Status.LastSuccessfulTime)
	}
	if isActive(cj, "done") || !isActive(cj, "runs") {
		t.Errorf("active: %v", cj.Status.Active)
	}
	if notes, dirty, _ := account(cj, jobs); len(notes) != 0 || dirty {
		t.Errorf("told twice: %v, dirty %v", notes, dirty)
	}
	if left := missing(cj, jobs); len(left) != 1 || left[0].Name != "gone" {
		t.Errorf("missing: %v", left)
	}
}

func TestDecide(t *testing.T) {
	const made, due = "2026-01-01 10:10:00", "2026-01-01 11:00:00"
	for name, c := range map[string]struct {
		schedule string
		change   func(*batchv1.CronJob)
		now      string
		start    string // empty: none
		replace  bool
		after    time.Duration
		say      string // reasons
	}{
		"not yet":            {now: "2026-01-01 10:59:59", after: time.Second},
		"to the second":      {now: due, start: due, after: time.Hour},
		"later":              {now: "2026-01-01 11:20:00", start: due, after: 40 * time.Minute},
		"the latest of many": {now: "2026-01-01 15:20:00", start: "2026-01-01 15:00:00", after: 40 * time.Minute},
		"too many, and told": {schedule: "* * * * *", now: "2026-01-01 12:10:30", start: "2026-01-01 12:10:00", after: 30 * time.Second, say: "TooManyMissedTimes"},
		"decades": {
			change: func(cj *batchv1.CronJob) { cj.Status.LastScheduleTime = &metav1.Time{Time: at("1970-01-01 00:00:00")} },
			now:    "2026-01-01 11:20:00", start: due, after: 40 * time.Minute, say: "TooManyMissedTimes",
		},
		"deleted":           {change: func(cj *batchv1.CronJob) { cj.DeletionTimestamp = &metav1.Time{} }, now: due},
		"suspended":         {change: func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(true) }, now: due},
		"nonsense":          {schedule: "often", now: due, say: "UnparseableSchedule"},
		"never":             {schedule: "0 0 31 2 *", now: due, say: "InvalidSchedule"},
		"no such time zone": {change: func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To("Moon/Sea") }, now: due, say: "UnknownTimeZone"},
		"a time zone in the schedule": {
			schedule: "TZ=Asia/Kolkata 0 * * * *", now: "2026-01-01 10:30:00", start: "2026-01-01 10:30:00", after: time.Hour, say: "UnsupportedSchedule",
		},
		"its own time zone": {
			change: func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To("Asia/Kolkata") }, now: "2026-01-01 10:40:00",
			start: "2026-01-01 10:30:00", after: 50 * time.Minute,
		},
		"within the deadline": {change: deadline(600), now: "2026-01-01 11:05:00", start: due, after: 55 * time.Minute},
		"past the deadline":   {change: deadline(600), now: "2026-01-01 11:20:00", after: 40 * time.Minute},
		"many, but within the deadline few": {
			schedule: "* * * * *", change: deadline(120), now: "2026-01-01 18:10:30", start: "2026-01-01 18:10:00", after: 30 * time.Second,
		},
		"started": {change: func(cj *batchv1.CronJob) { cj.Status.LastScheduleTime = &metav1.Time{Time: at(due)} }, now: "2026-01-01 11:20:00", after: 40 * time.Minute},
		"started, and only listed": {
			change: func(cj *batchv1.CronJob) { active(cj, jobName(cj, at(due))) }, now: "2026-01-01 11:20:00", after: 40 * time.Minute,
		},
		"beside one that runs": {change: policy(batchv1.AllowConcurrent), now: due, start: due, after: time.Hour},
		"not beside one":       {change: policy(batchv1.ForbidConcurrent), now: due, after: time.Hour, say: "JobAlreadyActive"},
		"instead of one":       {change: policy(batchv1.ReplaceConcurrent), now: due, start: due, replace: true, after: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			if c.schedule == "" {
				c.schedule = "0 * * * *"
			}
			s := decide(cronJob(c.schedule, made, c.change), at(c.now))
			want := time.Time{}
			if c.start != "" {
				want = at(c.start)
			}
			var said []string
			for _, n := range s.notes {
				said = append(said, n.reason)
			}
			if !s.start.Equal(want) || s.replace != c.replace || s.after != c.after || strings.Join(said, " ") != c.say {
				t.Errorf("start %v replace %v after %v, said %v", s.start, s.replace, s.after, s.notes)
			}
		})
	}
}

func deadline(seconds int64) func(*batchv1.CronJob) {
	return func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = &seconds }
}

func policy(p batchv1.ConcurrencyPolicy) func(*batchv1.CronJob) {
	return func(cj *batchv1.CronJob) { cj.Spec.ConcurrencyPolicy = p; active(cj, "runs") }
}

func TestJobFor(t *testing.T) {
	cj := cronJob("0 * * * *", "2026-01-01 00:00:00", func(cj *batchv1.CronJob) {
		cj.Spec.TimeZone = ptr.To("Asia/Kolkata")
		cj.Spec.JobTemplate.Labels = map[string]string{"a": "b"}
		cj.Spec.JobTemplate.Annotations = map[string]string{"note": "mine"}
	})
	start := at("2026-01-01 10:30:00")
	j, err := jobFor(cj, start)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint("c-", start.Unix()/60); j.Name != want {
		t.Errorf("name %s, want %s", j.Name, want)
	}
	if got := j.Annotations[batchv1.CronJobScheduledTimestampAnnotation]; got != "2026-01-01T16:00:00+05:30" || j.Annotations["note"] != "mine" {
		t.Errorf("annotations: %v", j.Annotations)
	}
	if j.Labels["a"] != "b" || !metav1.IsControlledBy(j, cj) {
		t.Errorf("labels %v, owners %v", j.Labels, j.OwnerReferences)
	}
	if len(cj.Spec.JobTemplate.Annotations) != 1 {
		t.Errorf("the template was changed: %v", cj.Spec.JobTemplate.Annotations)
	}
}

func TestByStart(t *testing.T) {
	jobs := []*batchv1.Job{job("c", "", ""), job("b", "", "2026-01-02 00:00:00"), job("a", "", ""), job("z", "", "2026-01-01 00:00:00"), job("d", "", "2026-01-02 00:00:00")}
	slices.SortFunc(jobs, byStart)
	var got []string
	for _, j := range jobs {
		got = append(got, j.Name)
	}
	if fmt.Sprint(got) != "[z b d a c]" {
		t.Error(got)
	}
}
