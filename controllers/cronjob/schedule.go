package cronjob

import (
	"errors"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/kubernetes/pkg/util/parsers"
	"k8s.io/utils/ptr"
)

// tooMany starts missed are told of.
const tooMany = 100

// errTooOften is for a schedule such as the 31st of February.
var errTooOften = errors.New("time difference between two schedules is less than 1 second")

// ownZone tells whether the schedule names a time zone itself, which is not
// supported and works.
func ownZone(cj *batchv1.CronJob) bool { return strings.Contains(cj.Spec.Schedule, "TZ") }

// parse reads the CronJob's schedule, in its time zone.
func parse(cj *batchv1.CronJob) (cron.Schedule, error) {
	text := cj.Spec.Schedule
	if zone := cj.Spec.TimeZone; zone != nil && !ownZone(cj) {
		if _, err := time.LoadLocation(*zone); err == nil {
			text = "TZ=" + *zone + " " + text
		}
	}
	return parsers.ParseCronScheduleWithPanicRecovery(text)
}

// since is the time after which starts have not been looked at.
func since(cj *batchv1.CronJob) time.Time {
	if last := cj.Status.LastScheduleTime; last != nil {
		return last.Time
	}
	return cj.CreationTimestamp.Time
}

// past are the starts that were due between two times.
type past struct {
	// last is the latest; zero if there is none.
	last time.Time
	// missed is about how many there were besides; zero if there is one at most.
	missed int64
}

// between finds the last start after since, and not after now. It does not
// walk through all of them: a clock that was wrong may be decades off.
func between(schedule cron.Schedule, since, now time.Time) (past, error) {
	first := schedule.Next(since)
	second := schedule.Next(first)
	switch {
	case now.Before(first):
		return past{}, nil
	case now.Before(second):
		return past{last: first}, nil
	}
	step := second.Sub(first).Round(time.Second)
	if step < time.Second {
		return past{}, errTooOften
	}
	p := past{missed: int64(now.Sub(first)/step) + 1}
	// Steps need not be equal, so begin one too early.
	for t := schedule.Next(first.Add(time.Duration(p.missed-2) * step)); !t.After(now); t = schedule.Next(t) {
		p.last = t
	}
	return p, nil
}

// due finds the start that has not been looked at, as the CronJob's deadline
// allows.
func due(cj *batchv1.CronJob, schedule cron.Schedule, now time.Time) (past, error) {
	from := since(cj)
	if deadline := cj.Spec.StartingDeadlineSeconds; deadline != nil {
		if earliest := now.Add(-time.Duration(*deadline) * time.Second); earliest.After(from) {
			from = earliest
		}
	}
	return between(schedule, from, now)
}

// next is how long it is until the next start.
func next(cj *batchv1.CronJob, schedule cron.Schedule, now time.Time) time.Duration {
	p, err := between(schedule, since(cj), now)
	from := p.last
	switch {
	case err != nil:
		from = now
	case p.last.IsZero() && p.missed == 0:
		from = since(cj)
	case p.last.IsZero():
		from = now
	}
	return max(time.Millisecond, schedule.Next(from).Sub(now))
}

// location is the CronJob's time zone.
func location(cj *batchv1.CronJob) (*time.Location, error) {
	return time.LoadLocation(ptr.Deref(cj.Spec.TimeZone, ""))
}
