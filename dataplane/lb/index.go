package lb

import (
	"hash/maphash"
	"iter"

	"k8s.io/apimachinery/pkg/types"
)

// named is what an index holds.
type named interface {
	fullName() types.NamespacedName
}

// index finds things by their names, which it does not keep: they are most of
// what a map of ten thousand names takes.
type index[T named] struct {
	hash func(types.NamespacedName) uint64
	// first are the things by the hash of their names, others those whose hash
	// another one has.
	first  map[uint64]T
	others map[types.NamespacedName]T
}

func newIndex[T named]() *index[T] {
	seed := maphash.MakeSeed()
	return &index[T]{
		hash:  func(n types.NamespacedName) uint64 { return maphash.Comparable(seed, n) },
		first: map[uint64]T{}, others: map[types.NamespacedName]T{},
	}
}

// get is the thing of a name; zero if there is none.
func (x *index[T]) get(name types.NamespacedName) T {
	if v, ok := x.first[x.hash(name)]; ok && v.fullName() == name {
		return v
	}
	return x.others[name]
}

func (x *index[T]) put(v T) {
	name := v.fullName()
	h := x.hash(name)
	if have, ok := x.first[h]; ok && have.fullName() != name {
		x.others[name] = v
		return
	}
	x.first[h] = v
	delete(x.others, name)
}

func (x *index[T]) drop(name types.NamespacedName) {
	h := x.hash(name)
	if have, ok := x.first[h]; ok && have.fullName() == name {
		delete(x.first, h)
		return
	}
	delete(x.others, name)
}

func (x *index[T]) len() int { return len(x.first) + len(x.others) }

func (x *index[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, v := range x.first {
			if !yield(v) {
				return
			}
		}
		for _, v := range x.others {
			if !yield(v) {
				return
			}
		}
	}
}
