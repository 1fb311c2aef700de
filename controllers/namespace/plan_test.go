package namespace

import (
	"testing"
	"time"
)

func TestRecheckAfter(t *testing.T) {
	for name, c := range map[string]struct {
		deletedFor time.Duration
		estimate   int64
		want       time.Duration
	}{
		"a young deletion is looked at every second":       {time.Second, 15, time.Second},
		"a young deletion about to end is not slowed down": {time.Second, 0, time.Second},
		"one with long grace later as often as upstream":   {time.Minute, 30, 16 * time.Second},
		"one with a finalizer later as often as upstream":  {time.Hour, 15, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := recheckAfter(c.deletedFor, c.estimate); got != c.want {
				t.Errorf("recheckAfter(%v, %d) = %v, want %v", c.deletedFor, c.estimate, got, c.want)
			}
		})
	}
}
