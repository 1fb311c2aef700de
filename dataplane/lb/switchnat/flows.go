package switchnat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// Flows is the state of the translation of a program whose maps are pinned.
type Flows struct{ flows, replies *ebpf.Map }

// OpenFlows opens the state that Load pinned in dir.
func OpenFlows(dir string) (*Flows, error) {
	flows, err := ebpf.LoadPinnedMap(filepath.Join(dir, natMapNatFlows), nil)
	if err != nil {
		return nil, fmt.Errorf("open flows: %w", err)
	}
	replies, err := ebpf.LoadPinnedMap(filepath.Join(dir, natMapNatReplies), nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open flows: %w", err), flows.Close())
	}
	return &Flows{flows: flows, replies: replies}, nil
}

// Close lets go of the maps; a nil Flows has none.
func (f *Flows) Close() error {
	if f == nil {
		return nil
	}
	return errors.Join(f.flows.Close(), f.replies.Close())
}

// Max is how many flows there can be.
func (f *Flows) Max() int { return int(f.flows.MaxEntries()) }

// Count is how many flows there are.
func (f *Flows) Count() (int, error) {
	n := 0
	err := f.each(func(natNatTuple, natNatFlow) error { n++; return nil })
	return n, err
}

// Forget removes the flows to backends that are gone, and says how many that
// were. TCP's stay: their backends answer or their clients give up.
func (f *Flows) Forget(gone []table.Departure) (int, error) {
	n := 0
	pins := map[table.Departure]struct{}{}
	for _, d := range gone {
		if d.Proto == inet.UDP {
			pins[d] = struct{}{}
		}
	}
	if len(pins) == 0 {
		return 0, nil
	}
	err := f.each(func(t natNatTuple, flow natNatFlow) error {
		d := table.Departure{Group: flow.Group, Proto: inet.Protocol(t.Proto), Backend: addrPort(flow.Backend.Addr.W, flow.Backend.PortBe)}
		if _, ok := pins[d]; !ok {
			return nil
		}
		n++
		reply := natNatTuple{Src: flow.Backend.Addr, Dst: t.Src, SportBe: flow.Backend.PortBe, DportBe: flow.PortBe, Proto: t.Proto}
		for _, del := range []error{f.replies.Delete(&reply), f.flows.Delete(&t)} {
			if del != nil && !errors.Is(del, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("forget flow: %w", del)
			}
		}
		return nil
	})
	return n, err
}

// each calls do with every flow, as it was at some moment.
func (f *Flows) each(do func(natNatTuple, natNatFlow) error) error {
	const chunk = 1024
	var (
		cursor ebpf.MapBatchCursor
		keys   = make([]natNatTuple, chunk)
		values = make([]natNatFlow, chunk)
	)
	for {
		n, err := f.flows.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			if err := do(keys[i], values[i]); err != nil {
				return err
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read flows: %w", err)
		}
	}
}

// addrPort reads what lies in network order.
func addrPort(w [4]uint32, port uint16) netip.AddrPort {
	var a [16]byte
	for i := range w {
		binary.NativeEndian.PutUint32(a[4*i:], w[i])
	}
	var p [2]byte
	binary.NativeEndian.PutUint16(p[:], port)
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), binary.BigEndian.Uint16(p[:]))
}
