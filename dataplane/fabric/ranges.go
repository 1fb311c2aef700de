package fabric

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
)

// Family is a kind of addresses.
type Family int

// The values of Family.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Ranges are the address ranges of a cluster, of each kind one a family, the
// primary family's first.
type Ranges struct {
	NodeSubnets, PodSubnets, ServiceSubnets, LoadBalancerSubnets []netip.Prefix
}

// All returns every range.
func (r Ranges) All() []netip.Prefix {
	return slices.Concat(r.NodeSubnets, r.PodSubnets, r.ServiceSubnets, r.LoadBalancerSubnets)
}

// InUse is a range that somebody else has.
type InUse struct {
	Prefix netip.Prefix
	// By names the owner: "route 10.0.0.0/8 dev tun0", "cluster dev".
	By string
}

// ConflictError says that a range of a cluster is somebody else's.
type ConflictError struct {
	// Field is the range's path in the config file.
	Field  string
	Prefix netip.Prefix
	With   InUse
	// Free is a range that could be used instead; invalid if there is none.
	Free netip.Prefix
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: %s overlaps %s", e.Field, e.Prefix, e.With.By)
}

// Mend is what the user can do about it.
func (e *ConflictError) Mend() string {
	if !e.Free.IsValid() {
		return "choose another range for " + e.Field
	}
	return fmt.Sprintf("leave %s out, or choose a free range, for example %s", e.Field, e.Free)
}

// field is one kind of ranges with what is known about it.
type field struct {
	name     string
	prefixes *[]netip.Prefix
	// pools are cut into pieces of bits, tried in order; the first piece of a
	// family's first pool is the default.
	pools []pool
}

type pool struct {
	first, last netip.Addr
	bits        int
	// step is the size of what lies between the beginnings of two pieces.
	step int
}

func (r *Ranges) fields() []field {
	p := func(first, last string, bits, step int) pool {
		return pool{netip.MustParseAddr(first), netip.MustParseAddr(last), bits, step}
	}
	return []field{
		{"networking.nodeSubnet", &r.NodeSubnets, []pool{
			p("172.30.0.0", "172.30.255.0", 24, 24), p("172.28.0.0", "172.28.255.0", 24, 24), p("100.126.0.0", "100.126.255.0", 24, 24),
			p("fd00:172:30::", "fd00:172:30:ff::", 64, 64), p("fd73:6966:30::", "fd73:6966:30:ff::", 64, 64)}},
		{"networking.podSubnet", &r.PodSubnets, []pool{
			p("10.244.0.0", "10.254.0.0", 16, 16), p("10.160.0.0", "10.243.0.0", 16, 16), p("100.64.0.0", "100.99.0.0", 16, 16),
			p("fd00:10:244::", "fd00:10:2ff::", 56, 48), p("fd73:6b69:244::", "fd73:6b69:2ff::", 56, 48)}},
		{"networking.serviceSubnet", &r.ServiceSubnets, []pool{
			p("10.96.0.0", "10.127.0.0", 16, 16), p("100.100.0.0", "100.125.0.0", 16, 16),
			p("fd00:10:96::", "fd00:10:ff::", 112, 48), p("fd73:6b69:96::", "fd73:6b69:ff::", 112, 48)}},
		{"networking.loadBalancerSubnet", &r.LoadBalancerSubnets, []pool{
			p("172.31.0.0", "172.31.255.0", 24, 24), p("172.29.0.0", "172.29.255.0", 24, 24), p("100.127.0.0", "100.127.255.0", 24, 24),
			p("fd00:172:31::", "fd00:172:31:ff::", 112, 64), p("fd73:6966:31::", "fd73:6966:31:ff::", 112, 64)}},
	}
}

// FreeRanges fills those of want that are not given with the next free ranges,
// so that there is one of each family, in their order. The given ones stay as
// they are: see Conflicts.
func FreeRanges(want Ranges, families []Family, taken []InUse) (Ranges, error) {
	var missing []string
	for _, f := range want.fields() {
		var complete []netip.Prefix
		for _, family := range families {
			p := f.given(family)
			if !p.IsValid() {
				p = f.free(family, &want, taken)
			}
			if !p.IsValid() {
				missing = append(missing, f.name)
				continue
			}
			complete = append(complete, p)
		}
		*f.prefixes = complete
	}
	if len(missing) > 0 {
		return Ranges{}, fmt.Errorf("choose address ranges: no free default for %v; set them in the config", missing)
	}
	return want, nil
}

// given is the range of a family, if there is one.
func (f field) given(family Family) netip.Prefix {
	for _, p := range *f.prefixes {
		if FamilyOf(p.Addr()) == family {
			return p
		}
	}
	return netip.Prefix{}
}

// free returns the first piece of f's pools that neither others nor ranges of
// own have.
func (f field) free(family Family, own *Ranges, taken []InUse) netip.Prefix {
	for _, pool := range f.pools {
		if FamilyOf(pool.first) != family {
			continue
		}
		for a := pool.first; a.IsValid() && a.Compare(pool.last) <= 0; {
			p := netip.PrefixFrom(a, pool.bits)
			if !overlapsAny(p, own, taken) {
				return p
			}
			next, err := offset(a, 1, pool.step)
			if err != nil {
				break
			}
			a = next
		}
	}
	return netip.Prefix{}
}

func overlapsAny(p netip.Prefix, own *Ranges, taken []InUse) bool {
	return slices.ContainsFunc(taken, func(t InUse) bool { return t.Prefix.Overlaps(p) }) ||
		slices.ContainsFunc(own.All(), p.Overlaps)
}

// Conflicts returns every clash of ranges with others' and among themselves,
// joined, as *ConflictError.
func Conflicts(ranges Ranges, taken []InUse) error {
	var errs []error
	others := slices.Clone(taken)
	for _, f := range ranges.fields() {
		for _, p := range *f.prefixes {
			for _, t := range others {
				if t.Prefix.Overlaps(p) {
					errs = append(errs, &ConflictError{Field: f.name, Prefix: p, With: t, Free: f.free(FamilyOf(p.Addr()), &ranges, taken)})
				}
			}
			others = append(others, InUse{p, fmt.Sprintf("%s %s", f.name, p)})
		}
	}
	return errors.Join(errs...)
}

// firstNodeOffset is the first node's place in its subnet; the switch, the
// host and things to come are before it.
const firstNodeOffset = 10

// podBits is the size of a node's pod range.
func podBits(f Family) int {
	if f == IPv4 {
		return 24
	}
	return 64
}

// Node returns the addresses and the pod ranges of the i-th node (from 0): in
// each family the tenth address of the node range and those after it, and one
// /24 or /64 of the pod range after the other.
func (r Ranges) Node(i int) (addrs []netip.Addr, pods []netip.Prefix, err error) {
	for _, subnet := range r.NodeSubnets {
		addr, err := offset(subnet.Masked().Addr(), firstNodeOffset+uint64(i), subnet.Addr().BitLen())
		if err != nil || !subnet.Contains(addr) || !subnet.Contains(addr.Next()) {
			return nil, nil, fmt.Errorf("networking.nodeSubnet: %s has no address for %d nodes", subnet, i+1)
		}
		addrs = append(addrs, addr)
	}
	for _, subnet := range r.PodSubnets {
		bits := podBits(FamilyOf(subnet.Addr()))
		base, err := offset(subnet.Masked().Addr(), uint64(i), bits)
		if err != nil || subnet.Bits() > bits || !subnet.Contains(base) {
			return nil, nil, fmt.Errorf("networking.podSubnet: %s has no /%d for each of %d nodes", subnet, bits, i+1)
		}
		pods = append(pods, netip.PrefixFrom(base, bits))
	}
	return addrs, pods, nil
}

// offset returns the address that is n prefixes of bits after a.
func offset(a netip.Addr, n uint64, bits int) (netip.Addr, error) {
	sum := new(big.Int).SetUint64(n)
	sum.Lsh(sum, uint(a.BitLen()-bits)).Add(sum, new(big.Int).SetBytes(a.AsSlice()))
	if sum.BitLen() > a.BitLen() {
		return netip.Addr{}, fmt.Errorf("%d times /%d after %s: no such address", n, bits, a)
	}
	after, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, a.BitLen()/8)))
	return after, nil
}
