package table

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Table is the service maps of one node, or of a cluster's switch. Its
// methods are for one goroutine at a time; kernel and other processes read
// the maps at any time. One process at a time may write.
type Table struct {
	maps tablesMaps
	// mirror is what the maps hold, by key.
	mirror map[tablesLbKey]entry
	// sets are the numbers of the sets in use.
	sets    map[uint32]struct{}
	lastSet uint32
	nodes   map[uint32]tablesLbNodeKind
	// reused says that the maps existed.
	reused bool
}

// Create opens the maps pinned in dir, a directory of a bpf file system, or
// creates and pins them. Maps of another layout (another release's) are
// unpinned and made anew: they live on for the programs that use them. An
// empty dir pins nothing: the maps go with the last one who uses them.
func Create(dir string) (*Table, error) {
	spec, err := loadTables()
	if err != nil {
		return nil, fmt.Errorf("read service maps: %w", err)
	}
	var opts ebpf.CollectionOptions
	reused := false
	if dir != "" {
		for _, m := range spec.Maps {
			m.Pinning = ebpf.PinByName
		}
		opts.Maps.PinPath = dir
		_, err := os.Stat(filepath.Join(dir, tablesMapLbServices))
		reused = err == nil
	}
	t := &Table{}
	err = spec.LoadAndAssign(&t.maps, &opts)
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		if err := Unpin(dir); err != nil {
			return nil, err
		}
		reused = false
		err = spec.LoadAndAssign(&t.maps, &opts)
	}
	if err != nil {
		return nil, fmt.Errorf("create service maps in %q: %w", dir, err)
	}
	t.reused = reused
	if err := t.read(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Open opens the maps pinned in dir; they must exist.
func Open(dir string) (*Table, error) {
	spec, err := loadTables()
	if err != nil {
		return nil, fmt.Errorf("read service maps: %w", err)
	}
	for name := range spec.Maps {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("open service map: %w", err)
		}
	}
	return Create(dir)
}

// Unpin removes the pins of the maps in dir; it succeeds when they are gone.
func Unpin(dir string) error {
	spec, err := loadTables()
	if err != nil {
		return fmt.Errorf("read service maps: %w", err)
	}
	var errs []error
	for name := range spec.Maps {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin service map: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Reused says whether the maps existed before Create.
func (t *Table) Reused() bool { return t.reused }

// Maps are the maps by the names they have in dataplane/bpf/lb.h, for loading
// the programs that read them.
func (t *Table) Maps() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		tablesMapLbAffinities: t.maps.LbAffinities,
		tablesMapLbMembers:    t.maps.LbMembers,
		tablesMapLbNodes:      t.maps.LbNodes,
		tablesMapLbServices:   t.maps.LbServices,
		tablesMapLbSlots:      t.maps.LbSlots,
	}
}

// Close lets go of the maps; pins stay.
func (t *Table) Close() error { return t.maps.Close() }

// Frontends is what the table holds, in no order.
func (t *Table) Frontends() []Frontend {
	out := make([]Frontend, 0, len(t.mirror))
	for k, e := range t.mirror {
		out = append(out, frontendFrom(k, e))
	}
	return out
}

// Set brings one frontend to the wanted state. It says whether anything had
// to be written.
func (t *Table) Set(f Frontend) (bool, error) {
	key, want, err := compile(f)
	if err != nil {
		return false, err
	}
	have, exists := t.mirror[key]
	if exists && have.sameAs(want) {
		return false, nil
	}
	want.set = t.newSet()
	if err := t.writeSlots(want); err != nil {
		return true, errors.Join(fmt.Errorf("write backends of %s: %w", f.Key, err), t.dropSet(want.set, want.slots))
	}
	if err := t.addMembers(key, want, have); err != nil {
		return true, errors.Join(fmt.Errorf("write members of %s: %w", f.Key, err), t.dropSet(want.set, want.slots))
	}
	value := serviceValue(key, want)
	if err := t.maps.LbServices.Update(&key, &value, ebpf.UpdateAny); err != nil {
		return true, errors.Join(fmt.Errorf("write service %s: %w", f.Key, err), t.dropSet(want.set, want.slots))
	}
	t.mirror[key] = want
	if !exists {
		return true, nil
	}
	return true, errors.Join(t.dropSet(have.set, have.slots), t.dropMembers(key, have, want))
}

// Delete removes one frontend; it succeeds when there is none.
func (t *Table) Delete(k Key) error {
	key, err := rawKey(k)
	if err != nil {
		return err
	}
	have, ok := t.mirror[key]
	if !ok {
		return nil
	}
	if err := t.maps.LbServices.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete service %s: %w", k, err)
	}
	delete(t.mirror, key)
	return errors.Join(t.dropSet(have.set, have.slots), t.dropMembers(key, have, entry{}))
}

// Replace makes the frontends all that the table holds, and returns the keys
// for which that failed. An empty table is filled in one call a map.
func (t *Table) Replace(all []Frontend) map[Key]error {
	if len(t.mirror) == 0 && t.fill(all) == nil {
		return nil
	}
	failed := map[Key]error{}
	wanted := make(map[tablesLbKey]struct{}, len(all))
	for _, f := range all {
		if key, err := rawKey(f.Key); err == nil {
			wanted[key] = struct{}{}
		}
		if _, err := t.Set(f); err != nil {
			failed[f.Key] = err
		}
	}
	for raw := range t.mirror {
		if _, ok := wanted[raw]; ok {
			continue
		}
		key := keyFrom(raw)
		if err := t.Delete(key); err != nil {
			failed[key] = err
		}
	}
	return failed
}

// fill writes an empty table. If it cannot, it leaves the table empty again.
func (t *Table) fill(all []Frontend) (err error) {
	var (
		keys     = make([]tablesLbKey, 0, len(all))
		values   = make([]tablesLbService, 0, len(all))
		slotKeys []tablesLbSlotKey
		slots    []tablesLbSlot
		listed   []tablesLbMember
	)
	mirror := make(map[tablesLbKey]entry, len(all))
	for _, f := range all {
		key, e, err := compile(f)
		if err != nil {
			return err
		}
		e.set = t.newSet()
		mirror[key] = e
		keys = append(keys, key)
		values = append(values, serviceValue(key, e))
		for i, b := range e.backends {
			k := tablesLbSlotKey{Set: e.set, Index: uint32(i)}
			slotKeys = append(slotKeys, k)
			slots = append(slots, tablesLbSlot{Self: k, Backend: b})
			if e.flags&tablesLbFlagsLB_MEMBERS != 0 {
				listed = append(listed, tablesLbMember{Service: key, Backend: b})
			}
		}
	}
	defer func() {
		if err == nil {
			t.mirror = mirror
			return
		}
		for i := range keys {
			_ = t.maps.LbServices.Delete(&keys[i])
		}
		for i := range slotKeys {
			_ = t.maps.LbSlots.Delete(&slotKeys[i])
		}
		for i := range listed {
			_ = t.maps.LbMembers.Delete(&listed[i])
		}
		clear(t.sets)
	}()
	if err := batch(t.maps.LbSlots, slotKeys, slots); err != nil {
		return fmt.Errorf("fill backends: %w", err)
	}
	if err := batch(t.maps.LbMembers, listed, make([]uint8, len(listed))); err != nil {
		return fmt.Errorf("fill members: %w", err)
	}
	if err := batch(t.maps.LbServices, keys, values); err != nil {
		return fmt.Errorf("fill services: %w", err)
	}
	return nil
}

func batch[K, V any](m *ebpf.Map, keys []K, values []V) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := m.BatchUpdate(keys, values, nil)
	return err
}

func serviceValue(key tablesLbKey, e entry) tablesLbService {
	return tablesLbService{Self: key, Set: e.set, Count: uint32(len(e.backends)), AffinityS: e.affinityS, Flags: e.flags}
}

// newSet is the number of a set that no reader can still have in hand.
func (t *Table) newSet() uint32 {
	for {
		t.lastSet++
		if _, used := t.sets[t.lastSet]; !used {
			t.sets[t.lastSet] = struct{}{}
			return t.lastSet
		}
	}
}

func (t *Table) writeSlots(e entry) error {
	for i, b := range e.backends {
		k := tablesLbSlotKey{Set: e.set, Index: uint32(i)}
		v := tablesLbSlot{Self: k, Backend: b}
		if err := t.maps.LbSlots.Update(&k, &v, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) dropSet(set uint32, count int) error {
	var errs []error
	for i := range count {
		k := tablesLbSlotKey{Set: set, Index: uint32(i)}
		if err := t.maps.LbSlots.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete backend %d of set %d: %w", i, set, err))
		}
	}
	delete(t.sets, set)
	return errors.Join(errs...)
}

// members are the backends of an entry that lb_members lists.
func members(e entry) map[tablesLbBackend]struct{} {
	if e.flags&tablesLbFlagsLB_MEMBERS == 0 {
		return nil
	}
	out := make(map[tablesLbBackend]struct{}, len(e.backends))
	for _, b := range e.backends {
		out[b] = struct{}{}
	}
	return out
}

func (t *Table) addMembers(key tablesLbKey, want, have entry) error {
	had := members(have)
	for b := range members(want) {
		if _, ok := had[b]; ok && !have.broken {
			continue
		}
		m := tablesLbMember{Service: key, Backend: b}
		var present uint8
		if err := t.maps.LbMembers.Update(&m, &present, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) dropMembers(key tablesLbKey, have, want entry) error {
	keep := members(want)
	var errs []error
	for b := range members(have) {
		if _, ok := keep[b]; ok {
			continue
		}
		m := tablesLbMember{Service: key, Backend: b}
		if err := t.maps.LbMembers.Delete(&m); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete member of %s: %w", keyFrom(key), err))
		}
	}
	return errors.Join(errs...)
}

// SetNodes names the addresses that frontends of the zero Addr answer on;
// the value says whether it is this node's own.
func (t *Table) SetNodes(nodes map[netip.Addr]bool) error {
	wanted := make(map[uint32]tablesLbNodeKind, len(nodes))
	for a, self := range nodes {
		if !a.Is4() {
			continue
		}
		kind := tablesLbNodeKindLB_NODE_OTHER
		if self {
			kind = tablesLbNodeKindLB_NODE_SELF
		}
		wanted[addrBE(a)] = kind
	}
	var errs []error
	for a, kind := range wanted {
		if have, ok := t.nodes[a]; ok && have == kind {
			continue
		}
		if err := t.maps.LbNodes.Update(&a, &kind, ebpf.UpdateAny); err != nil {
			errs = append(errs, fmt.Errorf("write node address %s: %w", addrFrom(a), err))
			continue
		}
		t.nodes[a] = kind
	}
	for a := range t.nodes {
		if _, ok := wanted[a]; ok {
			continue
		}
		if err := t.maps.LbNodes.Delete(&a); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete node address %s: %w", addrFrom(a), err))
			continue
		}
		delete(t.nodes, a)
	}
	return errors.Join(errs...)
}
