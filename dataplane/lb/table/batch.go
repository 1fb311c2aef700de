package table

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// batch collects entries that one system call a map writes.
type batch struct {
	keys      []tablesLbKey
	values    []tablesLbService
	chunkKeys []tablesLbChunkKey
	chunks    []tablesLbChunk
}

// batchSize is where a system call costs nothing any more beside its entries,
// and what is collected is still small: 100 KiB of backends.
const batchSize = 256

func (b *batch) add(key tablesLbKey, e entry) {
	b.keys, b.values = append(b.keys, key), append(b.values, serviceValue(key, e))
}

func (b *batch) addSet(s *set) {
	for i := range chunksOf(len(s.backends)) {
		k, v := s.chunk(i)
		b.chunkKeys, b.chunks = append(b.chunkKeys, k), append(b.chunks, v)
	}
}

func (b *batch) full() bool { return max(len(b.keys), len(b.chunks)) >= batchSize }

// write writes what was collected: backends first, then who names them.
func (b *batch) write(maps *tablesMaps) error {
	if err := update(maps.LbChunks, b.chunkKeys, b.chunks); err != nil {
		return fmt.Errorf("fill backends: %w", err)
	}
	if err := update(maps.LbServices, b.keys, b.values); err != nil {
		return fmt.Errorf("fill services: %w", err)
	}
	b.keys, b.values, b.chunkKeys, b.chunks = b.keys[:0], b.values[:0], b.chunkKeys[:0], b.chunks[:0]
	return nil
}

func update[K, V any](m *ebpf.Map, keys []K, values []V) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := m.BatchUpdate(keys, values, nil)
	return err
}
