package table

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// read makes the mirror from the maps, and removes from the maps what a
// writer that died left half-done: slots without a service, members without
// a slot.
func (t *Table) read() error {
	t.mirror = map[tablesLbKey]entry{}
	t.sets = map[uint32]struct{}{}
	t.nodes = map[uint32]tablesLbNodeKind{}

	services, err := dump[tablesLbKey, tablesLbService](t.maps.LbServices)
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	slots, err := dump[tablesLbSlotKey, tablesLbSlot](t.maps.LbSlots)
	if err != nil {
		return fmt.Errorf("read backends: %w", err)
	}
	listed, err := dump[tablesLbMember, uint8](t.maps.LbMembers)
	if err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	t.nodes, err = dump[uint32, tablesLbNodeKind](t.maps.LbNodes)
	if err != nil {
		return fmt.Errorf("read node addresses: %w", err)
	}

	for key, s := range services {
		t.sets[s.Set] = struct{}{}
		t.lastSet = max(t.lastSet, s.Set)
		e := entry{set: s.Set, affinityS: s.AffinityS, flags: s.Flags, slots: int(s.Count)}
		for i := range s.Count {
			k := tablesLbSlotKey{Set: s.Set, Index: i}
			if slot, ok := slots[k]; ok {
				e.backends = append(e.backends, slot.Backend)
				delete(slots, k)
			}
		}
		slices.SortFunc(e.backends, compareBackends)
		e.broken = uint32(len(e.backends)) != s.Count
		for b := range members(e) {
			m := tablesLbMember{Service: key, Backend: b}
			if _, ok := listed[m]; !ok {
				e.broken = true
			}
			delete(listed, m)
		}
		t.mirror[key] = e
	}

	var errs []error
	for k := range slots {
		t.lastSet = max(t.lastSet, k.Set)
		if err := t.maps.LbSlots.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete orphaned backend: %w", err))
		}
	}
	for m := range listed {
		if err := t.maps.LbMembers.Delete(&m); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete orphaned member: %w", err))
		}
	}
	return errors.Join(errs...)
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
