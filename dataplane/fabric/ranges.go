package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Ranges are the four address ranges of a cluster.
type Ranges struct {
	NodeSubnet, PodSubnet, ServiceSubnet, LoadBalancerSubnet netip.Prefix
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

// field is one range with what is known about it.
type field struct {
	name   string
	prefix *netip.Prefix
	// pools are cut into pieces of bits, tried in order; the first piece of
	// the first pool is the default.
	pools []pool
}

type pool struct {
	first, last netip.Addr
	bits        int
}

func (r *Ranges) fields() []field {
	p := func(first, last string, bits int) pool {
		return pool{netip.MustParseAddr(first), netip.MustParseAddr(last), bits}
	}
	return []field{
		{"networking.nodeSubnet", &r.NodeSubnet, []pool{
			p("172.30.0.0", "172.30.255.0", 24), p("172.28.0.0", "172.28.255.0", 24), p("100.126.0.0", "100.126.255.0", 24)}},
		{"networking.podSubnet", &r.PodSubnet, []pool{
			p("10.244.0.0", "10.254.0.0", 16), p("10.160.0.0", "10.243.0.0", 16), p("100.64.0.0", "100.99.0.0", 16)}},
		{"networking.serviceSubnet", &r.ServiceSubnet, []pool{
			p("10.96.0.0", "10.127.0.0", 16), p("100.100.0.0", "100.125.0.0", 16)}},
		{"networking.loadBalancerSubnet", &r.LoadBalancerSubnet, []pool{
			p("172.31.0.0", "172.31.255.0", 24), p("172.29.0.0", "172.29.255.0", 24), p("100.127.0.0", "100.127.255.0", 24)}},
	}
}

// DefaultRanges returns the default ranges, each moved to the next free one
// if somebody has it.
func DefaultRanges(taken []InUse) (Ranges, error) { return FreeRanges(Ranges{}, taken) }

// FreeRanges fills those of want that are not given (the zero value) with the
// next free ranges. The given ones stay as they are: see Conflicts.
func FreeRanges(want Ranges, taken []InUse) (Ranges, error) {
	var missing []string
	for _, f := range want.fields() {
		if f.prefix.IsValid() {
			continue
		}
		if *f.prefix = f.free(&want, taken); !f.prefix.IsValid() {
			missing = append(missing, f.name)
		}
	}
	if len(missing) > 0 {
		return Ranges{}, fmt.Errorf("choose address ranges: no free default for %v; set them in the config", missing)
	}
	return want, nil
}

// free returns the first piece of f's pools that neither others nor ranges of
// own have.
func (f field) free(own *Ranges, taken []InUse) netip.Prefix {
	for _, pool := range f.pools {
		for a := pool.first; a.IsValid() && a.Compare(pool.last) <= 0; {
			p := netip.PrefixFrom(a, pool.bits)
			if !overlapsAny(p, own, taken) {
				return p
			}
			next, err := offset(a, 1<<(32-pool.bits))
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
		slices.ContainsFunc(own.fields(), func(o field) bool { return o.prefix.IsValid() && o.prefix.Overlaps(p) })
}

// Conflicts returns every clash of ranges with others' and among themselves,
// joined, as *ConflictError.
func Conflicts(ranges Ranges, taken []InUse) error {
	var errs []error
	fields := ranges.fields()
	for i, f := range fields {
		if !f.prefix.IsValid() {
			continue
		}
		others := slices.Clone(taken)
		for _, o := range fields[:i] {
			if o.prefix.IsValid() {
				others = append(others, InUse{*o.prefix, fmt.Sprintf("%s %s", o.name, o.prefix)})
			}
		}
		for _, t := range others {
			if t.Prefix.Overlaps(*f.prefix) {
				errs = append(errs, &ConflictError{Field: f.name, Prefix: *f.prefix, With: t, Free: f.free(&ranges, taken)})
			}
		}
	}
	return errors.Join(errs...)
}

const (
	// firstNodeOffset is the first node's place in NodeSubnet; the switch,
	// the host and things to come are before it.
	firstNodeOffset = 10
	// podBits is the size of a node's pod range.
	podBits = 24
)

// Node returns the address and the pod range of the i-th node (from 0): the
// addresses .10, .11 … of NodeSubnet, and one /24 of PodSubnet after the
// other.
func (r Ranges) Node(i int) (netip.Addr, netip.Prefix, error) {
	addr, err := offset(r.NodeSubnet.Masked().Addr(), firstNodeOffset+uint64(i))
	if err != nil || !r.NodeSubnet.Contains(addr) || !r.NodeSubnet.Contains(addr.Next()) {
		return netip.Addr{}, netip.Prefix{}, fmt.Errorf("networking.nodeSubnet: %s has no address for %d nodes", r.NodeSubnet, i+1)
	}
	base, err := offset(r.PodSubnet.Masked().Addr(), uint64(i)<<(32-podBits))
	if err != nil || r.PodSubnet.Bits() > podBits || !r.PodSubnet.Contains(base) {
		return netip.Addr{}, netip.Prefix{}, fmt.Errorf("networking.podSubnet: %s has no /%d for each of %d nodes", r.PodSubnet, podBits, i+1)
	}
	return addr, netip.PrefixFrom(base, podBits), nil
}

// offset returns the n-th IPv4 address after a.
func offset(a netip.Addr, n uint64) (netip.Addr, error) {
	v4 := a.As4()
	sum := uint64(binary.BigEndian.Uint32(v4[:])) + n
	if sum > 1<<32-1 {
		return netip.Addr{}, fmt.Errorf("%d addresses after %s: no such address", n, a)
	}
	binary.BigEndian.PutUint32(v4[:], uint32(sum))
	return netip.AddrFrom4(v4), nil
}
