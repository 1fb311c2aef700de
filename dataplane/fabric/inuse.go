package fabric

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HostInUse lists the ranges that the host's routes (of every table) and
// addresses have, other clusters' routes among them. netns is the path of the
// host's namespace; empty means the caller's.
func HostInUse(netns string) ([]InUse, error) {
	if netns == "" {
		netns = currentNetns
	}
	host, err := openSpace(netns)
	if err != nil {
		return nil, err
	}
	defer host.close()
	routes, err := Dump(func() ([]netlink.Route, error) {
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		return host.RouteListFiltered(netlink.FAMILY_ALL, all, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	links, err := Dump(host.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the host's devices: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var taken []InUse
	seen := map[InUse]bool{}
	for _, r := range routes {
		use, ok := inUse(r, names)
		if ok && !seen[use] {
			seen[use] = true
			taken = append(taken, use)
		}
	}
	return taken, nil
}

// inUse says what a route of the host takes. Default routes take nothing, in
// their two halves (as VPNs set them) neither.
func inUse(r netlink.Route, devices map[int]string) (InUse, bool) {
	switch {
	case r.Dst == nil, r.Type == unix.RTN_BROADCAST, r.Type == unix.RTN_MULTICAST, r.Type == unix.RTN_ANYCAST:
		return InUse{}, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, length := r.Dst.Mask.Size()
	if length == 32 {
		addr = addr.Unmap()
	}
	if !ok || bits <= 1 {
		return InUse{}, false
	}
	p := netip.PrefixFrom(addr, bits)
	kind, device := "route", ""
	switch {
	case r.Type == unix.RTN_LOCAL && bits == length:
		kind = "address"
	case r.Type != unix.RTN_UNICAST && r.Type != unix.RTN_LOCAL:
		kind = "unreachable route"
	}
	if name := devices[r.LinkIndex]; name != "" {
		device = " dev " + name
	}
	if r.Protocol == RouteProtocol {
		kind = "another cluster's " + kind
	}
	return InUse{Prefix: p, By: fmt.Sprintf("%s %s%s", kind, p, device)}, true
}

// HostMTU is the largest packet that leaves the host whole by every default
// route that it has now, 1500 without one. It is not below what IPv6 demands.
func HostMTU(netns string) (int, error) {
	if netns == "" {
		netns = currentNetns
	}
	host, err := openSpace(netns)
	if err != nil {
		return 0, err
	}
	defer host.close()
	routes, err := Dump(func() ([]netlink.Route, error) { return host.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return 0, fmt.Errorf("list the host's routes: %w", err)
	}
	const leastIPv6 = 1280
	mtu := defaultMTU
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST || r.Dst != nil && !isDefault(r.Dst) {
			continue
		}
		link, err := host.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue // gone since the listing, or a route of several devices
		}
		mtu = min(mtu, link.Attrs().MTU)
	}
	return max(mtu, leastIPv6), nil
}

func isDefault(dst *net.IPNet) bool {
	bits, _ := dst.Mask.Size()
	return bits == 0
}
