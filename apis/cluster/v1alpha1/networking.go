package v1alpha1

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateNetworking(n *Networking, nodes int, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	families := []IPFamily{IPv4, IPv6, DualStack}
	if !slices.Contains(families, n.IPFamily) {
		errs = append(errs, field.NotSupported(at.Child("ipFamily"), n.IPFamily, families))
	}
	if n.APIServerPort < 0 || n.APIServerPort > 65535 {
		errs = append(errs, field.Invalid(at.Child("apiServerPort"), n.APIServerPort, validation.InclusiveRangeError(0, 65535)+"; 0 picks a free one"))
	}
	if _, err := netip.ParseAddr(n.APIServerAddress); err != nil {
		errs = append(errs, field.Invalid(at.Child("apiServerAddress"), n.APIServerAddress, "not an IP address; try 127.0.0.1"))
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
