package storage

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

type slowCache time.Duration

func (c slowCache) Wait(ctx context.Context) error {
	select {
	case <-time.After(time.Duration(c)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestANewCacheIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct{ age, fills, patience, waits time.Duration }{
		"until it is filled":                    {0, 10 * time.Millisecond, time.Minute, 10 * time.Millisecond},
		"no longer than it is new":              {0, time.Hour, time.Minute, freshBound},
		"no longer than who asks":               {0, time.Hour, time.Millisecond, time.Millisecond},
		"not at all when it is not new":         {freshBound, time.Hour, time.Minute, 0},
		"for what is left of the time it is so": {freshBound / 2, time.Hour, time.Minute, freshBound / 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fresh{cache: slowCache(c.fills), until: time.Now().Add(freshBound)}
				time.Sleep(c.age)
				ctx, cancel := context.WithTimeout(t.Context(), c.patience)
				defer cancel()
				asked := time.Now()
				f.filled(ctx)
				if waited := time.Since(asked); waited != c.waits {
					t.Errorf("waited %v, want %v", waited, c.waits)
				}
			})
		})
	}
}
