package storage

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/klog/v2"
)

// promptSpacing bounds how often etcd is asked for progress: an answer wakes
// the caches of all resources.
const promptSpacing = 5 * time.Millisecond

// prompter makes consistent reads quick. A read of a resource that nobody
// writes waits until its cache knows that it has missed nothing: until etcd
// says how far the watch is. Upstream asks for that every 100 ms while a read
// waits, so the read takes 50 ms. The prompter asks at once when a read finds
// out to which revision it has to wait; upstream's asking stays behind it.
//
// All resources watch on one stream, so one answer is for all of them.
type prompter struct {
	mu sync.Mutex
	// mu guards the fields below. asked is the highest revision that an answer
	// is on its way for, or has come.
	asked   uint64
	pending bool
	last    time.Time
}

// reach sees to it that etcd is asked, soon and from now on, for its progress.
func (p *prompter) reach(revision uint64, ask func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision <= p.asked {
		return
	}
	p.asked = revision
	if p.pending {
		return
	}
	p.pending = true
	time.AfterFunc(max(0, promptSpacing-time.Since(p.last)), func() {
		p.mu.Lock()
		p.pending, p.last = false, time.Now()
		p.mu.Unlock()
		ask()
	})
}

// prompted is the storage below one resource's cache.
type prompted struct {
	storage.Interface
	prompter *prompter

	mu sync.Mutex
	// stream is the metadata of the cache's watch, by which etcd's client
	// tells its streams apart; mu guards it.
	stream metadata.MD
}

func (p *prompted) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	p.mu.Lock()
	p.stream, _ = metadata.FromOutgoingContext(ctx)
	p.mu.Unlock()
	return p.Interface.Watch(ctx, key, opts)
}

func (p *prompted) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	revision, err := p.Interface.GetCurrentResourceVersion(ctx)
	if err != nil {
		return 0, err
	}
	p.prompter.reach(revision, func() {
		p.mu.Lock()
		stream := p.stream
		p.mu.Unlock()
		ctx := context.Background()
		if stream != nil {
			ctx = metadata.NewOutgoingContext(ctx, stream)
		}
		if err := p.RequestWatchProgress(ctx); err != nil {
			klog.V(4).InfoS("Request of watch progress failed", "err", err)
		}
	})
	return revision, nil
}
