package table

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// sources is one list of prefixes in the kernel: who may call a frontend.
type sources struct {
	id   uint32
	list []tablesLbSource // sorted; Bits and Addr, Set when written
	uses int
}

// rawSources are the prefixes as the kernel has them, without their list.
func rawSources(all []netip.Prefix) []tablesLbSource {
	var out []tablesLbSource
	for _, p := range all {
		p = p.Masked()
		bits := 32 + p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		out = append(out, tablesLbSource{Bits: uint32(bits), Addr: rawAddr(p.Addr())})
	}
	slices.SortFunc(out, compareSources)
	return slices.Compact(out)
}

func compareSources(a, b tablesLbSource) int {
	if c := cmp.Compare(a.Bits, b.Bits); c != 0 {
		return c
	}
	return slices.Compare(a.Addr.W[:], b.Addr.W[:])
}

func (s *sources) prefixes() []netip.Prefix {
	out := []netip.Prefix{}
	for _, p := range s.list {
		addr, bits := addrFrom(p.Addr), int(p.Bits)-32
		if addr.Is4() && bits >= 96 {
			bits -= 96
		}
		out = append(out, netip.PrefixFrom(addr, bits))
	}
	return out
}

// takeSources is a list for one more user, written when it is new. There are
// few: every one is compared.
func (t *Table) takeSources(list []tablesLbSource) (*sources, error) {
	for _, have := range t.sources {
		if slices.Equal(have.list, list) {
			have.uses++
			return have, nil
		}
	}
	for {
		t.lastSources++
		if _, used := t.sources[t.lastSources]; !used {
			break
		}
	}
	s := &sources{id: t.lastSources, list: list, uses: 1}
	t.sources[s.id] = s
	var present uint8
	for _, k := range list {
		k.List = s.id
		if err := t.maps.LbSources.Update(&k, &present, ebpf.UpdateAny); err != nil {
			return nil, errors.Join(fmt.Errorf("write source ranges: %w", err), t.dropSources(s))
		}
	}
	return s, nil
}

func (t *Table) dropSources(s *sources) error {
	if s == nil {
		return nil
	}
	if s.uses--; s.uses > 0 {
		return nil
	}
	delete(t.sources, s.id)
	var errs []error
	for _, k := range s.list {
		k.List = s.id
		if err := t.maps.LbSources.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete source range: %w", err))
		}
	}
	return errors.Join(errs...)
}
