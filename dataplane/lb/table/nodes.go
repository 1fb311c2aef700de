package table

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// SetNodes names the addresses that frontends of AnyNode answer on; the value
// says whether it is this node's own.
func (t *Table) SetNodes(nodes map[netip.Addr]bool) error {
	wanted := make(map[tablesLbAddr]tablesLbNodeKind, len(nodes))
	for a, self := range nodes {
		kind := tablesLbNodeKindLB_NODE_OTHER
		if self {
			kind = tablesLbNodeKindLB_NODE_SELF
		}
		wanted[rawAddr(a)] = kind
	}
	return bring(t.maps.LbNodes, t.nodes, wanted, "node address")
}

// Identity is what a network namespace sends from; either may be invalid.
type Identity struct{ V4, V6 netip.Addr }

// SetIdentity says which addresses the sockets of a network namespace, by its
// cookie, send from: source ranges ask it. The zero Identity forgets it.
func (t *Table) SetIdentity(netns uint64, id Identity) error {
	if id == (Identity{}) {
		if err := t.maps.LbIdentities.Delete(&netns); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget network namespace %d: %w", netns, err)
		}
		return nil
	}
	var raw tablesLbIdentity
	if id.V4.IsValid() {
		raw.V4 = rawAddr(id.V4)
	}
	if id.V6.IsValid() {
		raw.V6 = rawAddr(id.V6)
	}
	if err := t.maps.LbIdentities.Update(&netns, &raw, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write addresses of network namespace %d: %w", netns, err)
	}
	return nil
}

// Identities are the cookies that SetIdentity named.
func (t *Table) Identities() ([]uint64, error) {
	raw, err := dump[uint64, tablesLbIdentity](t.maps.LbIdentities)
	if err != nil {
		return nil, fmt.Errorf("read network namespaces: %w", err)
	}
	var out []uint64
	for netns := range raw {
		out = append(out, netns)
	}
	return out, nil
}

// bring writes the differences between a map, as have mirrors it, and want.
func bring[K, V comparable](m *ebpf.Map, have, want map[K]V, what string) error {
	var errs []error
	for k, v := range want {
		if had, ok := have[k]; ok && had == v {
			continue
		}
		if err := m.Update(&k, &v, ebpf.UpdateAny); err != nil {
			errs = append(errs, fmt.Errorf("write %s: %w", what, err))
			continue
		}
		have[k] = v
	}
	for k := range have {
		if _, ok := want[k]; ok {
			continue
		}
		if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete %s: %w", what, err))
			continue
		}
		delete(have, k)
	}
	return errors.Join(errs...)
}
