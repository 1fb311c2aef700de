package job

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

// released are the Pods, by Job, whose finalizer we removed and that the cache
// may still show with it.
type released struct {
	mu    sync.Mutex // guards byJob
	byJob map[types.NamespacedName]sets.Set[types.UID]
}

func (r *released) of(job types.NamespacedName) sets.Set[types.UID] {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byJob[job].Clone()
}

func (r *released) add(job types.NamespacedName, pod types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byJob[job] == nil {
		r.byJob[job] = sets.New[types.UID]()
	}
	r.byJob[job].Insert(pod)
}

func (r *released) seen(job types.NamespacedName, pod types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byJob[job].Delete(pod); r.byJob[job].Len() == 0 {
		delete(r.byJob, job)
	}
}

func (r *released) forget(job types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byJob, job)
}

// backoffs are the back-offs of Jobs. They are kept nowhere else: who restarts
// the controllers starts Pods again at once, as upstream does.
type backoffs struct {
	mu    sync.Mutex // guards byJob
	byJob map[types.NamespacedName]backoff
}

func (b *backoffs) of(job types.NamespacedName) backoff {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byJob[job]
}

func (b *backoffs) set(job types.NamespacedName, to backoff) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if to == (backoff{}) {
		delete(b.byJob, job)
		return
	}
	b.byJob[job] = to
}
