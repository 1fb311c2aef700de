package v1alpha1

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// firstNodeAddress is the offset of the first node in NodeSubnet; the ones
// below are the switch's and the host's.
const firstNodeAddress = 10

// ParseSubnets reads a range, or several that are separated by commas.
func ParseSubnets(text string) ([]netip.Prefix, error) {
	var subnets []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		if text == "" {
			break
		}
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		subnets = append(subnets, p)
	}
	return subnets, nil
}

// Families are those of the cluster's addresses, the primary one first: nodes
// and Pods name it first, and Services that do not choose have it.
func (n *Networking) Families() []IPFamily {
	if n.IPFamily != DualStack {
		return []IPFamily{n.IPFamily}
	}
	if by := n.orderedBy(); by != nil && familyOf(by.prefixes[0]) == IPv6 {
		return []IPFamily{IPv6, IPv4}
	}
	return []IPFamily{IPv4, IPv6}
}

// orderedBy is the range that decides which family is the primary one: the
// first that names both. The Service range comes first, as with kubeadm.
func (n *Networking) orderedBy() *subnet {
	for _, s := range []subnet{
		{name: "serviceSubnet", text: n.ServiceSubnet}, {name: "podSubnet", text: n.PodSubnet},
		{name: "nodeSubnet", text: n.NodeSubnet}, {name: "loadBalancerSubnet", text: n.LoadBalancerSubnet},
	} {
		prefixes, err := ParseSubnets(s.text)
		if err == nil && len(prefixes) == 2 && familyOf(prefixes[0]) != familyOf(prefixes[1]) {
			s.prefixes = prefixes
			return &s
		}
	}
	return nil
}

func familyOf(p netip.Prefix) IPFamily {
	if p.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

// subnet is one of the ranges' fields.
type subnet struct {
	name, text string
	prefixes   []netip.Prefix
	v4, v6     size
}

// size is what a range of one family may have, in bits of its prefix.
type size struct {
	least, most   int
	why, whyLarge string
	// try is an example.
	try string
}

func (s subnet) size(f IPFamily) size {
	if f == IPv4 {
		return s.v4
	}
	return s.v6
}

// subnets are the fields of n with what is known about them.
func (n *Networking) subnets(nodes int) []subnet {
	podBits := 0 // of a range, above those of a node
	for 1<<podBits < nodes {
		podBits++
	}
	nodeBits := 2
	for 1<<nodeBits < firstNodeAddress+nodes+1 {
		nodeBits++
	}
	const bits = 128 - 32 // what an IPv6 prefix has more
	dns, services := "the tenth address is cluster DNS", "Kubernetes allows at most 20 bits for Services"
	machines := fmt.Sprintf("%d nodes count from the tenth address", nodes)
	balancers := "addresses for Services are taken from it"
	return []subnet{
		{name: "podSubnet", text: n.PodSubnet,
			v4: size{least: 8, most: 24 - podBits, why: fmt.Sprintf("%d nodes need a /24 each", nodes), try: DefaultPodSubnet},
			v6: size{least: 48, most: 64 - podBits, why: fmt.Sprintf("%d nodes need a /64 each", nodes),
				whyLarge: "Kubernetes counts at most 16 bits of nodes", try: DefaultPodSubnetIPv6}},
		{name: "serviceSubnet", text: n.ServiceSubnet,
			v4: size{least: 12, most: 27, why: dns, whyLarge: services, try: DefaultServiceSubnet},
			v6: size{least: 12 + bits, most: 27 + bits, why: dns, whyLarge: services, try: DefaultServiceSubnetIPv6}},
		{name: "nodeSubnet", text: n.NodeSubnet,
			v4: size{least: 16, most: 32 - nodeBits, why: machines, try: DefaultNodeSubnet},
			v6: size{least: 16, most: 128 - nodeBits, why: machines, try: DefaultNodeSubnetIPv6}},
		{name: "loadBalancerSubnet", text: n.LoadBalancerSubnet,
			v4: size{least: 8, most: 30, why: balancers, try: DefaultLoadBalancerSubnet},
			v6: size{least: 8, most: 30 + bits, why: balancers, try: DefaultLoadBalancerSubnetIPv6}},
	}
}

// validateSubnets checks the written ranges, each by itself and then against
// each other. Ranges left open are chosen free of the written ones.
func validateSubnets(n *Networking, nodes int, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	type ranged struct {
		name   string
		prefix netip.Prefix
	}
	var good []ranged
	for _, s := range n.subnets(nodes) {
		if s.text == "" {
			continue
		}
		at := at.Child(s.name)
		bad := s.parse(at, n.IPFamily)
		if len(bad) == 0 {
			bad = validateFamilies(n, s, at)
		}
		errs = append(errs, bad...)
		if len(bad) > 0 {
			continue
		}
		for _, p := range s.prefixes {
			for _, other := range good {
				if other.prefix.Overlaps(p) {
					errs = append(errs, field.Invalid(at, p.String(), fmt.Sprintf("overlaps with %s %s", other.name, other.prefix)))
				}
			}
		}
		for _, p := range s.prefixes {
			good = append(good, ranged{s.name, p})
		}
	}
	return errs
}

// parse reads the field and checks each of its ranges by itself.
func (s *subnet) parse(at *field.Path, family IPFamily) field.ErrorList {
	var errs field.ErrorList
	for text := range strings.SplitSeq(s.text, ",") {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			try := s.v4.try
			if family == IPv6 {
				try = s.v6.try
			}
			errs = append(errs, field.Invalid(at, text, "not a range; try "+try))
			continue
		}
		if err := validateRange(p, s.size(familyOf(p)), at); err != nil {
			errs = append(errs, err)
		}
		s.prefixes = append(s.prefixes, p)
	}
	return errs
}

func validateRange(p netip.Prefix, size size, at *field.Path) *field.Error {
	if p != p.Masked() {
		return field.Invalid(at, p.String(), "not the first address of its range; try "+p.Masked().String())
	}
	for _, r := range reservedRanges {
		if r.prefix.Overlaps(p) {
			return field.Invalid(at, p.String(), "overlaps with "+r.prefix.String()+", "+r.use)
		}
	}
	switch {
	case p.Bits() > size.most:
		return field.Invalid(at, p.String(), fmt.Sprintf("too small, at most /%d fits: %s", size.most, size.why))
	case p.Bits() < size.least:
		return field.Invalid(at, p.String(), strings.TrimSuffix(fmt.Sprintf("too large, at least /%d: %s", size.least, size.whyLarge), ": "))
	}
	return nil
}

// validateFamilies compares the families of a field's ranges with the
// cluster's.
func validateFamilies(n *Networking, s subnet, at *field.Path) field.ErrorList {
	var families []IPFamily
	for _, p := range s.prefixes {
		families = append(families, familyOf(p))
	}
	switch {
	case n.IPFamily != DualStack && len(families) > 1:
		return field.ErrorList{field.Invalid(at, s.text, "several ranges; write one, or networking.ipFamily: dual for one of each family")}
	case n.IPFamily == IPv4 && families[0] == IPv6, n.IPFamily == IPv6 && families[0] == IPv4:
		return field.ErrorList{field.Invalid(at, s.text, fmt.Sprintf("not a range of networking.ipFamily %s; try %s", n.IPFamily, s.size(n.IPFamily).try))}
	case n.IPFamily != DualStack:
		return nil
	case len(families) > 2 || len(families) == 2 && families[0] == families[1]:
		return field.ErrorList{field.Invalid(at, s.text, "a dual-stack cluster has one range of each family; try "+s.v4.try+","+s.v6.try)}
	case len(families) == 2 && !slices.Equal(families, n.Families()):
		return field.ErrorList{field.Invalid(at, s.text, "the order differs from that of networking."+n.orderedBy().name+
			": the family that comes first is the cluster's primary one; write all in one order")}
	}
	return nil
}

// reservedRanges can never be a cluster's: the kernel treats them specially.
var reservedRanges = []struct {
	prefix netip.Prefix
	use    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "which means this host"},
	{netip.MustParsePrefix("127.0.0.0/8"), "which is loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "which is link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "which is multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "which is reserved"},
	{netip.MustParsePrefix("::/8"), "which is reserved"},
	{netip.MustParsePrefix("fe80::/10"), "which is link-local"},
	{netip.MustParsePrefix("ff00::/8"), "which is multicast"},
}
