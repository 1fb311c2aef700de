package lb

import (
	"strings"
	"unsafe"

	"k8s.io/apimachinery/pkg/types"
)

// slab gives room for values that come by the ten thousands, without the holes
// that garbage between them leaves: of what a list brings nine tenths are. Room
// is free again when nothing of its slab is in use.
type slab[T any] struct{ free []T }

// slabSize is a size that Go has room of, and slabHead what it takes of that.
const slabSize, slabHead = 8192, 8

// take copies values to their room.
func (s *slab[T]) take(values ...T) []T {
	taken := s.room(len(values))
	copy(taken, values)
	return taken
}

// room is for n values; nil for none.
func (s *slab[T]) room(n int) []T {
	if n == 0 {
		return nil
	}
	if len(s.free) < n {
		var v T
		s.free = make([]T, max((slabSize-slabHead)/int(unsafe.Sizeof(v)), n))
	}
	taken := s.free[:n:n]
	s.free = s.free[n:]
	return taken
}

// texts is a slab of strings.
type texts struct{ *strings.Builder }

const textsLen = 4096

func (t *texts) take(s string) string {
	if t.Builder == nil || t.Cap()-t.Len() < len(s) {
		t.Builder = &strings.Builder{}
		t.Grow(max(textsLen, len(s)))
	}
	begin := t.Len()
	t.WriteString(s)
	return t.String()[begin:]
}

// serviceSlabs and sliceSlabs have room for what one list brings.
type serviceSlabs struct {
	services slab[service]
	ports    slab[servicePort]
	uids     texts
}

func (s *serviceSlabs) take(r *readService) *readService {
	if r.service != nil {
		r.service.uid = types.UID(s.uids.take(string(r.service.uid)))
		r.service.ports = s.ports.take(r.service.ports...)
		r.service = &s.services.take(*r.service)[0]
	}
	return r
}

type sliceSlabs struct {
	slices    slab[slice]
	ports     slab[slicePort]
	endpoints slab[endpoint]
	names     texts
}

func (s *sliceSlabs) take(r *readSlice) *readSlice {
	if r.slice != nil {
		r.slice.name = s.names.take(r.slice.name)
		r.slice.ports = s.ports.take(r.slice.ports...)
		r.slice.endpoints = s.endpoints.take(r.slice.endpoints...)
		r.slice = &s.slices.take(*r.slice)[0]
	}
	return r
}

// claimSlabs have room for what one target's maps are filled with.
type claimSlabs struct {
	claims slab[claim]
	keys   slab[packed]
}

// take is a claim with room for n keys; of a nil claimSlabs too.
func (s *claimSlabs) take(by *known, n int) *claim {
	if s == nil {
		return &claim{by: by, keys: make([]packed, 0, n)}
	}
	return &s.claims.take(claim{by: by, keys: s.keys.room(n)[:0]})[0]
}
