//go:build robustness

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/test/robustness/history"
)

const (
	// Watches are broken off at random, to be resumed.
	leastWatch = time.Second
	mostWatch  = 15 * time.Second
	// watchPause spaces attempts while there is nobody to ask.
	watchPause = 50 * time.Millisecond
)

// watcher records what a watch delivers, from its first list on.
type watcher struct {
	name     string
	recorder *recorder
	client   kubernetes.Interface
	reset    func()
	random   *rand.Rand

	mu sync.Mutex // guards the fields below
	// streams end with the one that goes on.
	streams  []history.Stream
	resumed  int
	advanced chan struct{} // closed and replaced at each event
}

func newWatcher(c *cluster, r *recorder, name string, seed uint64) (*watcher, error) {
	client, reset, err := c.client()
	if err != nil {
		return nil, err
	}
	return &watcher{name: name, recorder: r, client: client, reset: reset, random: rand.New(rand.NewPCG(seed, 99)), advanced: make(chan struct{})}, nil
}

// run until ctx ends.
func (w *watcher) run(ctx context.Context) {
	known := false
	for ctx.Err() == nil {
		if !known {
			known = w.list(ctx) == nil
		}
		if known {
			err := w.watch(ctx)
			// The server has forgotten the revision: only a list helps, as it
			// says itself.
			known = !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchPause):
		}
	}
}

// list begins a stream.
func (w *watcher) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	list, err := w.client.CoreV1().ConfigMaps(loadNamespace).List(ctx, metav1.ListOptions{LabelSelector: "epoch", Limit: 1})
	if err != nil {
		w.reset()
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	revision := revisionOf(list.ResourceVersion)
	w.streams = append(w.streams, history.Stream{Watcher: w.name, From: revision, Until: revision})
	return nil
}

// watch goes on where the stream is, for a while.
func (w *watcher) watch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leastWatch+time.Duration(w.random.Int64N(int64(mostWatch-leastWatch))))
	defer cancel()
	w.mu.Lock()
	from := w.streams[len(w.streams)-1].Until
	w.resumed++
	w.mu.Unlock()
	events, err := w.client.CoreV1().ConfigMaps(loadNamespace).Watch(ctx, metav1.ListOptions{
		ResourceVersion: fmt.Sprint(from), AllowWatchBookmarks: true,
	})
	if err != nil {
		w.reset()
		return err
	}
	defer events.Stop()
	for e := range events.ResultChan() {
		if err := w.take(e); err != nil {
			return err
		}
	}
	if ctx.Err() == nil {
		w.reset() // the server went away
	}
	return nil
}

func (w *watcher) take(e watch.Event) error {
	if e.Type == watch.Error {
		return apierrors.FromObject(e.Object)
	}
	cm, ok := e.Object.(*corev1.ConfigMap)
	if !ok {
		return fmt.Errorf("watch delivered %T", e.Object)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.streams[len(w.streams)-1]
	s.Until = max(s.Until, revisionOf(cm.ResourceVersion))
	if e.Type != watch.Bookmark && cm.Labels["epoch"] != "" {
		s.Events = append(s.Events, history.Event{Type: string(e.Type), Key: cm.Name, Value: content(cm), Revision: revisionOf(cm.ResourceVersion), At: w.recorder.now()})
	}
	close(w.advanced)
	w.advanced = make(chan struct{})
	return nil
}

// reach waits until the watch has come to a revision.
func (w *watcher) reach(ctx context.Context, revision int64) error {
	for {
		w.mu.Lock()
		have, advanced := int64(0), w.advanced
		if len(w.streams) > 0 {
			have = w.streams[len(w.streams)-1].Until
		}
		w.mu.Unlock()
		if have >= revision {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("watch %s is at revision %d and does not come to %d: %w", w.name, have, revision, ctx.Err())
		}
	}
}

// recorded are the streams so far.
func (w *watcher) recorded() []history.Stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.streams)
}
