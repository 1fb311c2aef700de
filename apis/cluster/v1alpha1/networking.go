package v1alpha1

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// firstNodeAddress is the offset of the first node in NodeSubnet; the ones
// below are the switch's and the host's.
const firstNodeAddress = 10

func validateNetworking(n *Networking, nodes int, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch n.IPFamily {
	case "ipv4":
	case "ipv6", "dual":
		errs = append(errs, field.Forbidden(at.Child("ipFamily"), n.IPFamily+" is not in this release; use ipv4"))
	default:
		errs = append(errs, field.NotSupported(at.Child("ipFamily"), n.IPFamily, []string{"ipv4"}))
	}
	if n.APIServerPort < 0 || n.APIServerPort > 65535 {
		errs = append(errs, field.Invalid(at.Child("apiServerPort"), n.APIServerPort, validation.InclusiveRangeError(0, 65535)+"; 0 picks a free one"))
	}
	if _, err := netip.ParseAddr(n.APIServerAddress); err != nil {
		errs = append(errs, field.Invalid(at.Child("apiServerAddress"), n.APIServerAddress, "not an IP address; try 127.0.0.1"))
	}
	if n.DisableDefaultCNI {
		errs = append(errs, field.Forbidden(at.Child("disableDefaultCNI"),
			"the pod network is part of skiff's nodes, and another cannot replace it in this release; remove the field"))
	}
	switch modes := []string{"iptables", "ipvs", "nftables"}; {
	case n.KubeProxyMode == "", slices.Contains(modes, n.KubeProxyMode):
	case n.KubeProxyMode == "none":
		errs = append(errs, field.Forbidden(at.Child("kubeProxyMode"),
			"Services are served by skiff's dataplane, which cannot be left out in this release; remove the field"))
	default:
		errs = append(errs, field.NotSupported(at.Child("kubeProxyMode"), n.KubeProxyMode, modes))
	}
	if n.DNSSearch != nil {
		for i, d := range *n.DNSSearch {
			for _, msg := range validation.IsDNS1123Subdomain(strings.TrimSuffix(d, ".")) {
				errs = append(errs, field.Invalid(at.Child("dnsSearch").Index(i), d, msg))
			}
		}
	}
	return append(errs, validateSubnets(n, nodes, at)...)
}

// validateSubnets checks the written ranges, each by itself and then against
// each other. Ranges left open are chosen free of the written ones.
func validateSubnets(n *Networking, nodes int, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	podBits := 24
	for 1<<(24-podBits) < nodes {
		podBits--
	}
	nodeBits := 30
	for 1<<(32-nodeBits) < firstNodeAddress+nodes+1 {
		nodeBits--
	}
	type subnet struct {
		name, cidr    string
		least, most   int
		why, whyLarge string
		prefix        netip.Prefix
	}
	subnets := []subnet{
		{name: "podSubnet", cidr: n.PodSubnet, least: 8, most: podBits, why: fmt.Sprintf("%d nodes need a /24 each", nodes)},
		{name: "serviceSubnet", cidr: n.ServiceSubnet, least: 12, most: 27, why: "the tenth address is cluster DNS",
			whyLarge: "Kubernetes allows at most 20 bits for Services"},
		{name: "nodeSubnet", cidr: n.NodeSubnet, least: 16, most: nodeBits, why: fmt.Sprintf("%d nodes count from the tenth address", nodes)},
		{name: "loadBalancerSubnet", cidr: n.LoadBalancerSubnet, least: 8, most: 30, why: "addresses for Services are taken from it"},
	}
	var good []subnet
	for _, s := range subnets {
		if s.cidr == "" {
			continue
		}
		at := at.Child(s.name)
		p, err := parseSubnet(s.cidr, at)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case p.Bits() > s.most:
			errs = append(errs, field.Invalid(at, s.cidr, fmt.Sprintf("too small, at most /%d fits: %s", s.most, s.why)))
			continue
		case p.Bits() < s.least:
			errs = append(errs, field.Invalid(at, s.cidr, strings.TrimSuffix(fmt.Sprintf("too large, at least /%d: %s", s.least, s.whyLarge), ": ")))
			continue
		}
		s.prefix = p
		for _, other := range good {
			if other.prefix.Overlaps(p) {
				errs = append(errs, field.Invalid(at, s.cidr, fmt.Sprintf("overlaps with %s %s", other.name, other.cidr)))
			}
		}
		good = append(good, s)
	}
	return errs
}

func parseSubnet(cidr string, at *field.Path) (netip.Prefix, *field.Error) {
	if strings.Contains(cidr, ",") {
		return netip.Prefix{}, field.Forbidden(at, "two ranges are dual-stack, which is not in this release; name one IPv4 range")
	}
	p, err := netip.ParsePrefix(cidr)
	switch {
	case err != nil:
		return p, field.Invalid(at, cidr, "not a range; try 10.244.0.0/16")
	case !p.Addr().Is4():
		return p, field.Forbidden(at, "IPv6 is not in this release; name an IPv4 range")
	case p != p.Masked():
		return p, field.Invalid(at, cidr, "not the first address of its range; try "+p.Masked().String())
	}
	for _, r := range reservedRanges {
		if r.prefix.Overlaps(p) {
			return p, field.Invalid(at, cidr, "overlaps with "+r.prefix.String()+", "+r.use)
		}
	}
	return p, nil
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
}
