package cronjob

import (
	"errors"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestBetween(t *testing.T) {
	for name, c := range map[string]struct {
		schedule, since, now string
		last                 string // empty: none
		missed               int64
	}{
		"none yet":                      {"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 10:59:59", "", 0},
		"since is looked at already":    {"0 * * * *", "2026-01-01 11:00:00", "2026-01-01 11:59:00", "", 0},
		"now counts":                    {"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 11:00:00", "2026-01-01 11:00:00", 0},
		"one":                           {"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 11:59:59", "2026-01-01 11:00:00", 0},
		"two":                           {"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 12:00:00", "2026-01-01 12:00:00", 2},
		"many":                          {"* * * * *", "2026-01-01 10:00:00", "2026-01-02 10:00:30", "2026-01-02 10:00:00", 1440},
		"steps that get longer":         {"0 0 1 * *", "2026-01-31 00:00:00", "2026-05-31 12:00:00", "2026-05-01 00:00:00", 5},
		"steps that get shorter":        {"0 8,9,20 * * *", "2026-01-01 09:00:00", "2026-01-03 08:30:00", "2026-01-03 08:00:00", 4},
		"once in four years, and twice": {"0 0 29 2 *", "2020-03-01 00:00:00", "2028-03-01 00:00:00", "2028-02-29 00:00:00", 2},
		"back to the future":            {"0 * * * *", "2027-01-01 00:00:00", "2026-01-01 00:00:00", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			schedule, err := parse(cronJob(c.schedule, c.since, nil))
			if err != nil {
				t.Fatal(err)
			}
			got, err := between(schedule, at(c.since), at(c.now))
			if err != nil {
				t.Fatal(err)
			}
			want := past{missed: c.missed}
			if c.last != "" {
				want.last = at(c.last)
			}
			if !got.last.Equal(want.last) || got.missed != want.missed {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
	never, err := parse(cronJob("0 0 31 2 *", "2026-01-01 00:00:00", nil))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := between(never, at("2026-01-01 00:00:00"), at("2026-01-02 00:00:00")); !errors.Is(err, errTooOften) {
		t.Errorf("a day that never comes: %+v, %v", got, err)
	}
}

// TestClockChange: where a night has an hour less or more, a start is neither
// lost nor doubled.
func TestClockChange(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		schedule, since, now string // UTC
		want                 string // in Berlin
	}{
		"the day before":              {"30 1 * * *", "2026-03-28 12:00:00", "2026-03-29 00:40:00", "2026-03-29T01:30:00+01:00"},
		"the day after":               {"30 3 * * *", "2026-03-28 12:00:00", "2026-03-29 01:40:00", "2026-03-29T03:30:00+02:00"},
		"hourly over the missing":     {"0 * * * *", "2026-03-29 00:00:00", "2026-03-29 01:00:00", "2026-03-29T03:00:00+02:00"},
		"hourly over the doubled one": {"0 * * * *", "2026-10-25 00:00:00", "2026-10-25 01:00:00", "2026-10-25T02:00:00+01:00"},
	} {
		t.Run(name, func(t *testing.T) {
			cj := cronJob(c.schedule, c.since, func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To(zone.String()) })
			schedule, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			got, err := between(schedule, at(c.since), at(c.now))
			if err != nil || got.last.In(zone).Format(time.RFC3339) != c.want {
				t.Errorf("%v, %v; want %s", got.last.In(zone), err, c.want)
			}
		})
	}
}

func TestNext(t *testing.T) {
	for name, c := range map[string]struct {
		schedule, last, now string
		want                time.Duration
	}{
		"the first":        {"0 * * * *", "", "2026-01-01 10:20:00", 40 * time.Minute},
		"after one":        {"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 11:20:00", 40 * time.Minute},
		"after many":       {"0 * * * *", "2025-01-01 10:00:00", "2026-01-01 11:20:00", 40 * time.Minute},
		"an uneven one":    {"0 8,9,20 * * *", "2026-01-01 09:00:00", "2026-01-01 21:00:00", 11 * time.Hour},
		"every ten hours":  {"@every 10h", "", "2026-01-01 10:20:00", 9*time.Hour + 40*time.Minute},
		"every, after one": {"@every 10h", "2026-01-01 10:00:00", "2026-01-01 21:00:00", 9 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			cj := cronJob(c.schedule, "2026-01-01 10:00:00", nil)
			if c.last != "" {
				cj.Status.LastScheduleTime = &metav1.Time{Time: at(c.last)}
			}
			schedule, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			if got := next(cj, schedule, at(c.now)); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for schedule, good := range map[string]bool{
		"0 * * * *": true, "@hourly": true, "@every 5m": true, "*/5 1-3 * jan mon": true, "TZ=UTC 0 * * * *": true,
		"": false, "* * * *": false, "60 * * * *": false, "0 0 * * * *": false, "TZ=0": false, "@often": false,
	} {
		if _, err := parse(cronJob(schedule, "2026-01-01 00:00:00", nil)); (err == nil) != good {
			t.Errorf("%q: %v", schedule, err)
		}
	}
}

func TestDue(t *testing.T) {
	for name, c := range map[string]struct {
		deadline *int64
		want     string
		missed   int64
	}{
		"all that was missed":     {want: "2026-01-01 15:00:00", missed: 5},
		"what the deadline has":   {deadline: ptr.To[int64](3600), want: "2026-01-01 15:00:00"},
		"less than the last":      {deadline: ptr.To[int64](600), want: ""},
		"more than there is":      {deadline: ptr.To[int64](1 << 30), want: "2026-01-01 15:00:00", missed: 5},
		"none, and none is ahead": {deadline: ptr.To[int64](0), want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			cj := cronJob("0 * * * *", "2026-01-01 10:10:00", func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = c.deadline })
			schedule, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			got, err := due(cj, schedule, at("2026-01-01 15:20:00"))
			if err != nil {
				t.Fatal(err)
			}
			want := past{missed: c.missed}
			if c.want != "" {
				want.last = at(c.want)
			}
			if !got.last.Equal(want.last) || got.missed != want.missed {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}
