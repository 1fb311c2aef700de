package table

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// content is what a set holds: the first count backends get new connections,
// the others keep what they have. Both parts are sorted and without doubles.
type content struct {
	backends []tablesLbBackend
	count    int
}

func contentOf(backends, keep []netip.AddrPort) content {
	all := make([]tablesLbBackend, 0, len(backends)+len(keep))
	for _, b := range backends {
		all = append(all, rawBackend(b))
	}
	slices.SortFunc(all, compareBackends)
	all = slices.Compact(all)
	c := content{count: len(all)}
	var rest []tablesLbBackend
	for _, b := range keep {
		raw := rawBackend(b)
		if _, has := slices.BinarySearchFunc(all, raw, compareBackends); !has {
			rest = append(rest, raw)
		}
	}
	slices.SortFunc(rest, compareBackends)
	all = append(all, slices.Compact(rest)...)
	c.backends = all
	return c
}

func (c content) equal(o content) bool {
	return c.count == o.count && slices.Equal(c.backends, o.backends)
}

// has says whether a backend is in either part.
func (c content) has(b tablesLbBackend) bool {
	_, first := slices.BinarySearchFunc(c.backends[:c.count], b, compareBackends)
	_, second := slices.BinarySearchFunc(c.backends[c.count:], b, compareBackends)
	return first || second
}

func (c content) addrPorts() (backends, keep []netip.AddrPort) {
	for i, b := range c.backends {
		if i < c.count {
			backends = append(backends, backendFrom(b))
		} else {
			keep = append(keep, backendFrom(b))
		}
	}
	return backends, keep
}

// set is one content in the kernel. Frontends with the same backends share
// one: a service port's addresses mostly do.
type set struct {
	content
	id   uint32
	uses int
	hash uint64
	// broken: a writer died over it; it is equal to nothing.
	broken bool
}

// sets are the sets in the kernel.
type sets struct {
	chunks *ebpf.Map
	byID   map[uint32]*set
	// byContent finds a set to share; of two contents with one hash only the
	// first is found.
	byContent map[uint64]*set
	seed      maphash.Seed
	last      uint32
}

func newSets(chunks *ebpf.Map) *sets {
	return &sets{
		chunks: chunks, byID: map[uint32]*set{}, byContent: map[uint64]*set{}, seed: maphash.MakeSeed(),
		// Sockets remember the number of the set that gave them a backend,
		// longer than a process lives: the next one must not count alike.
		last: rand.Uint32(),
	}
}

// chunk sizes follow from the C structure.
const chunkSize = len(tablesLbChunk{}.Backends)

func chunksOf(n int) int { return (n + chunkSize - 1) / chunkSize }

func (s *sets) hash(c content) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	maphash.WriteComparable(&h, c.count)
	for _, b := range c.backends {
		maphash.WriteComparable(&h, b)
	}
	return h.Sum64()
}

// take is a set with the content for one more user; fresh says that its
// chunks are still to be written. An empty content needs no set.
func (s *sets) take(c content) (got *set, fresh bool) {
	if len(c.backends) == 0 {
		return nil, false
	}
	h := s.hash(c)
	if have, ok := s.byContent[h]; ok && have.equal(c) {
		have.uses++
		return have, false
	}
	for {
		s.last++
		if _, used := s.byID[s.last]; !used && s.last != 0 {
			break
		}
	}
	got = &set{content: c, id: s.last, uses: 1, hash: h}
	s.enter(got)
	return got, true
}

func (s *sets) enter(n *set) {
	s.byID[n.id] = n
	if _, taken := s.byContent[n.hash]; !taken {
		s.byContent[n.hash] = n
	}
}

// write writes the chunks of a fresh set.
func (s *sets) write(n *set) error {
	for i := range chunksOf(len(n.backends)) {
		k, v := n.chunk(i)
		if err := s.chunks.Update(&k, &v, ebpf.UpdateAny); err != nil {
			return fmt.Errorf("write backends: %w", err)
		}
	}
	return nil
}

func (n *set) chunk(i int) (k tablesLbChunkKey, v tablesLbChunk) {
	k = tablesLbChunkKey{Set: n.id, Index: uint32(i)}
	v.Self = k
	copy(v.Backends[:], n.backends[i*chunkSize:])
	return k, v
}

// drop is called when a user is gone; the last one takes the chunks along.
func (s *sets) drop(n *set) error {
	if n == nil {
		return nil
	}
	if n.uses--; n.uses > 0 {
		return nil
	}
	s.forget(n)
	var errs []error
	for i := range chunksOf(len(n.backends)) {
		k := tablesLbChunkKey{Set: n.id, Index: uint32(i)}
		if err := s.chunks.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete backends of set %d: %w", n.id, err))
		}
	}
	return errors.Join(errs...)
}

func (s *sets) forget(n *set) {
	delete(s.byID, n.id)
	if s.byContent[n.hash] == n {
		delete(s.byContent, n.hash)
	}
}
