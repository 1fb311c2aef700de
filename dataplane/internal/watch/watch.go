// Package watch tells a consumer of the dataplane what the API server's
// objects of one kind are, and keeps none of them.
package watch

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
)

// Kind is what to watch and whom to tell. The functions are called one at a
// time, by one goroutine.
type Kind struct {
	// Name is for the log.
	Name      string
	Example   runtime.Object
	ListWatch *cache.ListWatch
	// Set hears of an object that is new or was changed, Delete of one that
	// is gone, Listed that all objects of a list were told.
	Set    func(obj any)
	Delete func(name types.NamespacedName)
	Listed func()
}

// Run watches until ctx ends.
func Run(ctx context.Context, k Kind) {
	Reflect(ctx, k.Name, k.Example, k.ListWatch, &store{kind: k, known: map[types.NamespacedName]struct{}{}})
}

// Reflect keeps a store equal to the API server's objects of one kind until
// ctx ends, with the patience that a node needs which starts with the API
// server or before it.
func Reflect(ctx context.Context, name string, example runtime.Object, lw *cache.ListWatch, to cache.ReflectorStore) {
	cache.NewReflectorWithOptions(patient{lw}, example, to, cache.ReflectorOptions{
		Name: name,
		Backoff: &wait.Backoff{
			Duration: 10 * time.Millisecond,
			Factor:   2,
			Jitter:   0.2,
			Steps:    8,
			Cap:      2 * time.Second,
		},
	}).RunWithContext(ctx)
}

// store turns a reflector's calls into those of a Kind.
type store struct {
	kind  Kind
	known map[types.NamespacedName]struct{}
}

var _ cache.ReflectorStore = (*store)(nil)

func (s *store) Add(obj any) error { return s.Update(obj) }
func (s *store) Resync() error     { return nil }

func (s *store) Update(obj any) error {
	s.known[nameOf(obj)] = struct{}{}
	s.kind.Set(obj)
	return nil
}

func (s *store) Delete(obj any) error {
	delete(s.known, nameOf(obj))
	s.kind.Delete(nameOf(obj))
	return nil
}

func (s *store) Replace(objs []any, _ string) error {
	now := make(map[types.NamespacedName]struct{}, len(objs))
	for _, obj := range objs {
		now[nameOf(obj)] = struct{}{}
		s.kind.Set(obj)
	}
	for name := range s.known {
		if _, ok := now[name]; !ok {
			s.kind.Delete(name)
		}
	}
	s.known = now
	s.kind.Listed()
	return nil
}

func nameOf(obj any) types.NamespacedName {
	if o, ok := obj.(metav1.Object); ok {
		return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
	}
	return types.NamespacedName{}
}
