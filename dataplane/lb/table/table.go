package table

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
)

// Table is the service maps of one node, or of a cluster's switch. Its
// methods are for one goroutine at a time; kernel and other processes read
// the maps at any time. One process at a time may write.
type Table struct {
	maps tablesMaps
	// mirror is what the maps hold, by key.
	mirror map[tablesLbKey]entry
	sets   *sets
	// sources are the lists of prefixes in use, by number.
	sources     map[uint32]*sources
	lastSources uint32
	nodes       map[tablesLbAddr]tablesLbNodeKind
	// reused says that the maps existed.
	reused bool
	// departed are the backends that left since the last Departed.
	departed map[Departure]struct{}
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
		tablesMapLbChunks:     t.maps.LbChunks,
		tablesMapLbCounters:   t.maps.LbCounters,
		tablesMapLbIdentities: t.maps.LbIdentities,
		tablesMapLbNodes:      t.maps.LbNodes,
		tablesMapLbServices:   t.maps.LbServices,
		tablesMapLbSources:    t.maps.LbSources,
	}
}

// Close lets go of the maps; pins stay.
func (t *Table) Close() error { return t.maps.Close() }

// Frontends is what the maps hold, in no order.
func (t *Table) Frontends() []Frontend {
	out := make([]Frontend, 0, len(t.mirror))
	for k, e := range t.mirror {
		out = append(out, frontendFrom(k, e))
	}
	return out
}

// sameAs says whether a frontend is in the maps already.
func (t *Table) sameAs(have entry, c compiled) bool {
	if have.broken || have.affinityS != c.entry.affinityS || have.group != c.entry.group || have.flags != c.entry.flags {
		return false
	}
	var content content
	if have.set != nil {
		if have.set.broken {
			return false
		}
		content = have.set.content
	}
	var list []tablesLbSource
	if have.sources != nil {
		list = have.sources.list
	}
	return content.equal(c.content) && slices.Equal(list, c.sources)
}

// Set brings one frontend to the wanted state. It says whether anything had
// to be written.
func (t *Table) Set(f Frontend) (bool, error) {
	c, err := compile(f)
	if err != nil {
		return false, err
	}
	have, exists := t.mirror[c.key]
	if exists && t.sameAs(have, c) {
		return false, nil
	}
	want := c.entry
	set, fresh := t.sets.take(c.content)
	want.set = set
	if fresh {
		err = t.sets.write(set)
	}
	if err == nil && len(c.sources) > 0 {
		want.sources, err = t.takeSources(c.sources)
	}
	if err == nil {
		value := serviceValue(c.key, want)
		err = t.maps.LbServices.Update(&c.key, &value, ebpf.UpdateAny)
	}
	if err != nil {
		return true, errors.Join(fmt.Errorf("write service %s: %w", f.Key, err), t.sets.drop(set), t.dropSources(want.sources))
	}
	t.mirror[c.key] = want
	if !exists {
		return true, nil
	}
	t.depart(c.key, have, c.content)
	return true, errors.Join(t.sets.drop(have.set), t.dropSources(have.sources))
}

// Delete removes one frontend; it succeeds when there is none.
func (t *Table) Delete(k Key) error { return t.delete(rawKey(k)) }

func (t *Table) delete(key tablesLbKey) error {
	have, ok := t.mirror[key]
	if !ok {
		return nil
	}
	if err := t.maps.LbServices.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete service %s: %w", keyFrom(key), err)
	}
	delete(t.mirror, key)
	if have.group == 0 {
		// A host port, which is one pod's and goes with it. Flows of a
		// Service that is deleted stay with its backends, as upstream.
		t.depart(key, have, content{})
	}
	return errors.Join(t.sets.drop(have.set), t.dropSources(have.sources))
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
		wanted[rawKey(f.Key)] = struct{}{}
		if _, err := t.Set(f); err != nil {
			failed[f.Key] = err
		}
	}
	for key := range t.mirror {
		if _, ok := wanted[key]; ok {
			continue
		}
		if err := t.delete(key); err != nil {
			failed[keyFrom(key)] = err
		}
	}
	return failed
}

// fill writes an empty table. If it cannot, it leaves the table empty again.
func (t *Table) fill(all []Frontend) (err error) {
	mirror := make(map[tablesLbKey]entry, len(all))
	defer func() {
		if err == nil {
			t.mirror = mirror
			return
		}
		for key, e := range mirror {
			_ = t.maps.LbServices.Delete(&key)
			_ = t.sets.drop(e.set)
			_ = t.dropSources(e.sources)
		}
	}()
	var b batch
	for _, f := range all {
		c, err := compile(f)
		if err != nil {
			return err
		}
		e := c.entry
		set, fresh := t.sets.take(c.content)
		e.set = set
		if len(c.sources) > 0 {
			if e.sources, err = t.takeSources(c.sources); err != nil {
				return errors.Join(err, t.sets.drop(set))
			}
		}
		mirror[c.key] = e
		if fresh {
			b.addSet(set)
		}
		b.add(c.key, e)
		if b.full() {
			if err := b.write(&t.maps); err != nil {
				return err
			}
		}
	}
	return b.write(&t.maps)
}

func serviceValue(key tablesLbKey, e entry) tablesLbService {
	v := tablesLbService{Self: key, AffinityS: e.affinityS, Group: e.group, Flags: e.flags}
	if e.set != nil {
		v.Set, v.Count, v.Total = e.set.id, uint32(e.set.count), uint32(len(e.set.backends))
	}
	if e.sources != nil {
		v.Sources = e.sources.id
	}
	return v
}
