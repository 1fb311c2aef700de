package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// table writes changes to the maps of one set of programs.
type table struct{ maps *bpfMaps }

// failures are what could not be written, and why.
type failures struct {
	groups map[uint32]error
	peers  map[claim]error
	pods   map[netip.Addr]error
	// stale are entries that could not be deleted.
	stale []error
}

func (f *failures) any() bool {
	return len(f.groups)+len(f.peers)+len(f.pods)+len(f.stale) > 0
}

func (f *failures) group(id uint32, err error) {
	if f.groups == nil {
		f.groups = map[uint32]error{}
	}
	f.groups[id] = errors.Join(f.groups[id], err)
}

// apply writes changes. What grants something is written before what leads
// there and deleted after it, so that a reader is allowed what the state
// before or after allows. A group that lacks rules or has no blocks allows
// less than it should; one that lacks some of its blocks might allow what
// "except" takes out, so that it then gets none.
func (t table) apply(c *changes) failures {
	var f failures
	t.putRules(c.rules, &f)
	for _, e := range c.groups {
		e.mask.Self = e.id
		if err := t.maps.PolicyGroups.Put(&e.id, &e.mask); err != nil {
			f.group(e.id, full("policy_groups", t.maps.PolicyGroups, err))
		}
	}
	t.putBlocks(c.blocks, &f)
	t.putPeers(c.peers, &f)
	for _, e := range c.pods {
		key := rawAddr(e.addr)
		e.pod.Self = key
		if err := t.maps.PolicyPods.Put(&key, &e.pod); err != nil {
			if f.pods == nil {
				f.pods = map[netip.Addr]error{}
			}
			f.pods[e.addr] = full("policy_pods", t.maps.PolicyPods, err)
		}
	}

	for _, addr := range c.podsGone {
		key := rawAddr(addr)
		f.deleted("policy_pods", t.maps.PolicyPods.Delete(&key))
	}
	for _, at := range c.peersGone {
		key := at.raw()
		f.deleted("policy_peers", t.maps.PolicyPeers.Delete(&key))
	}
	for i := range c.blocksGone {
		f.deleted("policy_blocks", t.maps.PolicyBlocks.Delete(&c.blocksGone[i]))
	}
	for i := range c.groupsGone {
		f.deleted("policy_groups", t.maps.PolicyGroups.Delete(&c.groupsGone[i]))
	}
	for _, e := range c.narrowed {
		e.mask.Self = e.id
		// It may have gone since.
		if err := t.maps.PolicyGroups.Update(&e.id, &e.mask, ebpf.UpdateExist); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			f.group(e.id, fmt.Errorf("write policy_groups: %w", err))
		}
	}
	t.deleteRules(c.rulesGone, &f)
	return f
}

// fewEntries is below what a batch is worth.
const fewEntries = 16

func (t table) putRules(entries []ruleEntry, f *failures) {
	if len(entries) > fewEntries {
		keys, kinds := make([]bpfPolicyRule, len(entries)), make([]bpfPolicyKind, len(entries))
		for i, e := range entries {
			keys[i], kinds[i] = e.key, e.kind
		}
		if _, err := t.maps.PolicyRules.BatchUpdate(keys, kinds, nil); err == nil {
			return
		}
		// One by one, to see whose do not fit.
	}
	for i := range entries {
		if err := t.maps.PolicyRules.Put(&entries[i].key, &entries[i].kind); err != nil {
			f.group(entries[i].key.Group, full("policy_rules", t.maps.PolicyRules, err))
		}
	}
}

func (t table) deleteRules(keys []bpfPolicyRule, f *failures) {
	if len(keys) > fewEntries {
		if _, err := t.maps.PolicyRules.BatchDelete(keys, nil); err == nil {
			return
		}
	}
	for i := range keys {
		f.deleted("policy_rules", t.maps.PolicyRules.Delete(&keys[i]))
	}
}

func (t table) putPeers(entries []peerEntry, f *failures) {
	if len(entries) > fewEntries {
		keys, peers := make([]bpfPolicyPeerKey, len(entries)), make([]bpfPolicyPeer, len(entries))
		for i, e := range entries {
			keys[i], peers[i] = e.claim.raw(), e.peer
			peers[i].Self = keys[i]
		}
		if _, err := t.maps.PolicyPeers.BatchUpdate(keys, peers, nil); err == nil {
			return
		}
	}
	for _, e := range entries {
		key := e.claim.raw()
		e.peer.Self = key
		if err := t.maps.PolicyPeers.Put(&key, &e.peer); err != nil {
			if f.peers == nil {
				f.peers = map[claim]error{}
			}
			f.peers[e.claim] = full("policy_peers", t.maps.PolicyPeers, err)
		}
	}
}

func (t table) putBlocks(entries []blockEntry, f *failures) {
	lacking := map[uint32]error{}
	for i := range entries {
		e := &entries[i]
		if lacking[e.key.Group] != nil {
			continue
		}
		if err := t.maps.PolicyBlocks.Put(&e.key, &e.peer); err != nil {
			lacking[e.key.Group] = full("policy_blocks", t.maps.PolicyBlocks, err)
		}
	}
	if len(lacking) == 0 {
		return
	}
	var (
		key  bpfPolicyBlock
		peer uint32
		gone []bpfPolicyBlock
	)
	all := t.maps.PolicyBlocks.Iterate()
	for all.Next(&key, &peer) {
		if lacking[key.Group] != nil {
			gone = append(gone, key)
		}
	}
	for i := range gone {
		f.deleted("policy_blocks", t.maps.PolicyBlocks.Delete(&gone[i]))
	}
	for id, err := range lacking {
		f.group(id, err)
	}
}

func (f *failures) deleted(name string, err error) {
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		f.stale = append(f.stale, fmt.Errorf("delete from %s: %w", name, err))
	}
}

// full says what it means that a map takes no more.
func full(name string, m *ebpf.Map, err error) error {
	// The kernel says E2BIG of a full hash, ENOSPC of a full trie.
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("map %s of the node is full: it holds %d entries", name, m.MaxEntries())
	}
	return fmt.Errorf("write %s: %w", name, err)
}

func (at claim) raw() bpfPolicyPeerKey {
	return bpfPolicyPeerKey{Addr: rawAddr(at.addr), Port: at.port, Proto: uint8(at.proto)}
}

// rawAddr is an address as the programs compare it.
func rawAddr(a netip.Addr) bpfPolicyAddr {
	b := a.As16()
	var raw bpfPolicyAddr
	for i := range raw.WordBe {
		raw.WordBe[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return raw
}
