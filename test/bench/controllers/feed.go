package main

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// watcher is a client of one kind.
type watcher interface {
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// feed is a watch that goes on where it was when the API server ends it, as it
// does with a reader that is slow on a loaded machine.
type feed struct {
	of   watcher
	opts metav1.ListOptions
	now  watch.Interface
}

func follow(ctx context.Context, of watcher, opts metav1.ListOptions) (*feed, error) {
	now, err := of.Watch(ctx, opts)
	return &feed{of, opts, now}, err
}

func (f *feed) stop() { f.now.Stop() }

// next is the next event.
func (f *feed) next(ctx context.Context) (watch.Event, error) {
	for {
		select {
		case <-ctx.Done():
			return watch.Event{}, ctx.Err()
		case e, ok := <-f.now.ResultChan():
			if !ok {
				again, err := f.of.Watch(ctx, f.opts)
				if err != nil {
					return e, err
				}
				f.now = again
				continue
			}
			object, err := meta.Accessor(e.Object)
			if err != nil || e.Type == watch.Error {
				return e, fmt.Errorf("watch ended: %v", e.Object)
			}
			f.opts.ResourceVersion = object.GetResourceVersion()
			return e, nil
		}
	}
}

// until waits until the feed shows something.
func (f *feed) until(ctx context.Context, shows func(watch.Event) bool) error {
	for {
		e, err := f.next(ctx)
		if err != nil || shows(e) {
			return err
		}
	}
}

// added waits until the feed has told of n new objects.
func (f *feed) added(ctx context.Context, n int) error {
	for seen := 0; seen < n; {
		e, err := f.next(ctx)
		if err != nil {
			return fmt.Errorf("%d of %d: %w", seen, n, err)
		}
		if e.Type == watch.Added {
			seen++
		}
	}
	return nil
}
