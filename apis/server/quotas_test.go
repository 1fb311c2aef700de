package server

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/kubernetes/pkg/apis/core"
)

// slowStorage takes a time for each write, and fails those of version zero.
type slowStorage struct {
	storage.Interface
	takes   time.Duration
	version uint64
}

var errNotWritten = errors.New("not written")

func (s slowStorage) GuaranteedUpdate(_ context.Context, _ string, out runtime.Object, _ bool, _ *storage.Preconditions, _ storage.UpdateFunc, _ runtime.Object) error {
	time.Sleep(s.takes)
	if s.version == 0 {
		return errNotWritten
	}
	out.(*core.ResourceQuota).ObjectMeta = metav1.ObjectMeta{ResourceVersion: strconv.FormatUint(s.version, 10)}
	return nil
}

func TestAQuotaThatWasWrittenIsWaitedFor(t *testing.T) {
	const never = time.Hour
	for name, c := range map[string]struct {
		write slowStorage
		// caughtUp is when the informer sees resource version 7.
		asks, caughtUp time.Duration
		namespace      string
		patience       time.Duration
		// waits is at least so long, and at most one look longer.
		waits time.Duration
	}{
		"until the informer has seen it":            {slowStorage{version: 7}, time.Millisecond, 5 * time.Millisecond, "a", never, 4 * time.Millisecond},
		"also while it is being written":            {slowStorage{version: 7, takes: 3 * time.Millisecond}, time.Millisecond, 0, "a", never, 2 * time.Millisecond},
		"not when the informer has seen it":         {slowStorage{version: 7}, 2 * time.Millisecond, time.Millisecond, "a", never, 0},
		"not when nothing was written":              {slowStorage{}, time.Millisecond, never, "a", never, 0},
		"not in another namespace":                  {slowStorage{version: 7}, time.Millisecond, never, "b", never, 0},
		"not for one that begins later":             {slowStorage{version: 7}, 0, never, "a", never, 0},
		"no longer than the bound":                  {slowStorage{version: 7}, time.Millisecond, never, "a", never, quotaBound},
		"no longer than the bound for a long write": {slowStorage{version: 7, takes: never}, time.Millisecond, 0, "a", never, quotaBound},
		"no longer than who asks":                   {slowStorage{version: 7}, time.Millisecond, never, "a", 2 * time.Millisecond, 2 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen atomic.Uint64
				q := &quotas{seen: seen.Load, namespaces: map[string]*quotaWrites{}}
				time.AfterFunc(c.caughtUp, func() { seen.Store(7) })
				time.AfterFunc(500*time.Microsecond, func() {
					s := quotaStorage{c.write, q}
					err := s.GuaranteedUpdate(t.Context(), "/resourcequotas/a/q", &core.ResourceQuota{}, false, nil, nil, nil)
					if (err != nil) != (c.write.version == 0) {
						t.Errorf("write: %v", err)
					}
				})
				time.Sleep(c.asks)
				ctx, cancel := context.WithTimeout(t.Context(), c.patience)
				defer cancel()
				asked := time.Now()
				q.wait(ctx, c.namespace)
				if waited := time.Since(asked); waited < c.waits || waited > c.waits+quotaRecheck {
					t.Errorf("waited %v, want %v", waited, c.waits)
				}
				time.Sleep(2 * never) // the write has ended
			})
		})
	}
}

func TestWritesThatTheInformerHasSeenAreForgotten(t *testing.T) {
	var seen atomic.Uint64
	q := &quotas{seen: seen.Load, namespaces: map[string]*quotaWrites{}}
	write := func(namespace string, version uint64) {
		q.begin(namespace)(&core.ResourceQuota{ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.FormatUint(version, 10)}})
	}
	write("seen", 5)
	write("unseen", 6)
	end := q.begin("pending")
	seen.Store(5)
	write("new", 8)
	for namespace, kept := range map[string]bool{"seen": false, "unseen": true, "pending": true, "new": true} {
		if _, have := q.namespaces[namespace]; have != kept {
			t.Errorf("%s: kept %v, want %v", namespace, have, kept)
		}
	}
	end(nil)
}
