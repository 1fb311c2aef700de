package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// Class is what spec.loadBalancerClass may name besides nothing.
	Class = "skiff.cluster/loadbalancer"
	// AddressesAnnotation asks for addresses: one, or one of each family
	// separated by a comma.
	AddressesAnnotation = "skiff.cluster/load-balancer-ips"
	// SharingAnnotation holds a key; Services with the same one may share an
	// address.
	SharingAnnotation = "skiff.cluster/allow-shared-ip"
)

// familyOf is an address's.
func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// byFamily holds an address of each family, or none.
type byFamily struct{ v4, v6 netip.Addr }

func (b *byFamily) of(family corev1.IPFamily) netip.Addr {
	if family == corev1.IPv4Protocol {
		return b.v4
	}
	return b.v6
}

func (b *byFamily) set(a netip.Addr) {
	if a.Is4() {
		b.v4 = a
	} else {
		b.v6 = a
	}
}

// requested are the addresses that the Service asks for.
func requested(svc *corev1.Service) (byFamily, error) {
	var asks byFamily
	field, text := "spec.loadBalancerIP", svc.Spec.LoadBalancerIP
	if annotation := svc.Annotations[AddressesAnnotation]; annotation != "" {
		if text != "" {
			return byFamily{}, fmt.Errorf("both spec.loadBalancerIP and the annotation %s ask for an address: keep one of them", AddressesAnnotation)
		}
		field, text = "annotation "+AddressesAnnotation, annotation
	}
	if text == "" {
		return asks, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil || a.Zone() != "" {
			return byFamily{}, fmt.Errorf("%s: %q is not an IP address", field, strings.TrimSpace(part))
		}
		a = a.Unmap()
		family := familyOf(a)
		if other := asks.of(family); other.IsValid() {
			return byFamily{}, fmt.Errorf("%s: %s and %s are both %s: ask for one address of each family", field, other, a, family)
		}
		if !slices.Contains(svc.Spec.IPFamilies, family) {
			return byFamily{}, fmt.Errorf("%s: %s is %s, but spec.ipFamilies is %v", field, a, family, svc.Spec.IPFamilies)
		}
		asks.set(a)
	}
	return asks, nil
}
