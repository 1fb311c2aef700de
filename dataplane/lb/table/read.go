package table

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// read makes the mirror from the maps, and removes from the maps what a
// writer that died left half-done: chunks without a service, source ranges
// without one.
func (t *Table) read() error {
	chunks, ranges, err := t.mirrored()
	if err != nil {
		return err
	}
	var errs []error
	for k := range chunks {
		if err := t.maps.LbChunks.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete orphaned backends: %w", err))
		}
	}
	for _, list := range ranges {
		for _, k := range list {
			if err := t.maps.LbSources.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, fmt.Errorf("delete orphaned source range: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// mirrored makes the mirror from the maps and returns what no service uses.
func (t *Table) mirrored() (chunks map[tablesLbChunkKey]tablesLbChunk, ranges map[uint32][]tablesLbSource, err error) {
	t.mirror = map[tablesLbKey]entry{}
	t.sets = newSets(t.maps.LbChunks)
	t.sources = map[uint32]*sources{}

	services, err := dump[tablesLbKey, tablesLbService](t.maps.LbServices)
	if err != nil {
		return nil, nil, fmt.Errorf("read services: %w", err)
	}
	if chunks, err = dump[tablesLbChunkKey, tablesLbChunk](t.maps.LbChunks); err != nil {
		return nil, nil, fmt.Errorf("read backends: %w", err)
	}
	if t.nodes, err = dump[tablesLbAddr, tablesLbNodeKind](t.maps.LbNodes); err != nil {
		return nil, nil, fmt.Errorf("read node addresses: %w", err)
	}
	if ranges, err = t.readSources(); err != nil {
		return nil, nil, err
	}
	for key, s := range services {
		e := entry{affinityS: s.AffinityS, group: s.Group, flags: s.Flags}
		e.set = t.adopt(s, chunks)
		if s.Sources != 0 {
			e.sources = t.adoptSources(s.Sources, ranges)
			e.broken = e.sources == nil
		}
		t.mirror[key] = e
	}
	return chunks, ranges, nil
}

// adopt is the set of a service in the kernel, for one more user. It takes
// the set's chunks from those that are nobody's.
func (t *Table) adopt(s tablesLbService, chunks map[tablesLbChunkKey]tablesLbChunk) *set {
	if s.Set == 0 {
		return nil
	}
	if have, ok := t.sets.byID[s.Set]; ok {
		have.uses++
		return have
	}
	n := &set{content: content{count: int(s.Count)}, id: s.Set, uses: 1}
	for i := range chunksOf(int(s.Total)) {
		k := tablesLbChunkKey{Set: s.Set, Index: uint32(i)}
		chunk, ok := chunks[k]
		n.broken = n.broken || !ok
		delete(chunks, k)
		n.backends = append(n.backends, chunk.Backends[:min(chunkSize, int(s.Total)-i*chunkSize)]...)
	}
	if n.broken {
		t.sets.byID[n.id] = n
		return n
	}
	n.hash = t.sets.hash(n.content)
	t.sets.enter(n)
	return n
}

// readSources are the lists of prefixes in the kernel, by number.
func (t *Table) readSources() (map[uint32][]tablesLbSource, error) {
	var (
		ranges = map[uint32][]tablesLbSource{}
		key    tablesLbSource
		value  uint8
	)
	all := t.maps.LbSources.Iterate()
	for all.Next(&key, &value) {
		ranges[key.List] = append(ranges[key.List], key)
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read source ranges: %w", err)
	}
	return ranges, nil
}

// adoptSources is a list of prefixes for one more user; nil if the kernel has
// none of the number.
func (t *Table) adoptSources(id uint32, ranges map[uint32][]tablesLbSource) *sources {
	if have, ok := t.sources[id]; ok {
		have.uses++
		return have
	}
	list, ok := ranges[id]
	if !ok {
		return nil
	}
	delete(ranges, id)
	for i := range list {
		list[i].List = 0
	}
	slices.SortFunc(list, compareSources)
	s := &sources{id: id, list: list, uses: 1}
	t.sources[id] = s
	t.lastSources = max(t.lastSources, id)
	return s
}

// dump copies a map that nobody else writes.
func dump[K comparable, V any](m *ebpf.Map) (map[K]V, error) {
	const chunk = 1024
	var (
		out    = map[K]V{}
		cursor ebpf.MapBatchCursor
		keys   = make([]K, chunk)
		values = make([]V, chunk)
	)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			out[keys[i]] = values[i]
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
