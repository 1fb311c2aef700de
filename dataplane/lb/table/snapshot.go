package table

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Snapshot is what pinned maps held at some moment.
type Snapshot struct {
	Frontends []Frontend
	// Nodes are the addresses that AnyNode frontends answer on; the value says
	// whether it is the node's own.
	Nodes map[netip.Addr]bool
}

// Inspect reads the maps pinned in dir and leaves them as they are, also what
// a writer has half-done.
func Inspect(dir string) (_ Snapshot, err error) {
	t := &Table{}
	defer func() { err = errors.Join(err, t.Close()) }()
	for name, m := range map[string]**ebpf.Map{
		tablesMapLbServices: &t.maps.LbServices,
		tablesMapLbChunks:   &t.maps.LbChunks,
		tablesMapLbSources:  &t.maps.LbSources,
		tablesMapLbNodes:    &t.maps.LbNodes,
	} {
		if *m, err = ebpf.LoadPinnedMap(filepath.Join(dir, name), &ebpf.LoadPinOptions{ReadOnly: true}); err != nil {
			return Snapshot{}, fmt.Errorf("open service map %s: %w", name, err)
		}
	}
	if _, _, err := t.mirrored(); err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{Frontends: t.Frontends(), Nodes: map[netip.Addr]bool{}}
	for a, kind := range t.nodes {
		s.Nodes[addrFrom(a)] = kind == tablesLbNodeKindLB_NODE_SELF
	}
	return s, nil
}
