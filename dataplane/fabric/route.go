package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// unreachable is the guard route of a range: used when nothing better is left.
func unreachable(p netip.Prefix) netlink.Route {
	return netlink.Route{Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Priority: unreachableMetric}
}

// local makes a namespace answer for every address of a range itself.
func local(p netip.Prefix, device int) netlink.Route {
	return netlink.Route{Dst: ipNet(p), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, LinkIndex: device}
}

// onLink leads to the address at the other end of a cable.
func onLink(to, src netip.Addr, device int) netlink.Route {
	return netlink.Route{Dst: hostPrefix(to), Type: unix.RTN_UNICAST, Scope: netlink.SCOPE_LINK, LinkIndex: device, Src: ip(src)}
}

// via leads to a range behind the address at the other end of a cable.
func via(p netip.Prefix, gateway, src netip.Addr, device int) netlink.Route {
	return netlink.Route{Dst: ipNet(p), Type: unix.RTN_UNICAST, LinkIndex: device, Gw: ip(gateway), Src: ip(src)}
}

// everything is the default route's destination.
func everything(f Family) netip.Prefix {
	if f == IPv4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// ensureRoutes writes those of want that are missing or differ, in order.
func ensureRoutes(s *space, want ...netlink.Route) error {
	have, err := ourRoutes(s)
	if err != nil {
		return err
	}
	for _, w := range want {
		w.Protocol, w.Table, w.Family = RouteProtocol, unix.RT_TABLE_MAIN, netlink.FAMILY_V4
		if w.Dst.IP.To4() == nil {
			w.Family = netlink.FAMILY_V6
		}
		found := false
		for _, h := range have {
			found = found || sameRoute(h, w)
		}
		if found {
			continue
		}
		if err := s.RouteReplace(&w); err != nil {
			return fmt.Errorf("set route %s: %w", w.Dst, err)
		}
	}
	return nil
}

// removeRoutes deletes routes of ours; others with the same destination stay.
func removeRoutes(s *space, gone ...netlink.Route) error {
	have, err := ourRoutes(s)
	if err != nil {
		return err
	}
	for _, g := range gone {
		for _, h := range have {
			if !sameRoute(h, g) {
				continue
			}
			if err := s.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route %s: %w", g.Dst, err)
			}
		}
	}
	return nil
}

func ourRoutes(s *space) ([]netlink.Route, error) {
	filter := &netlink.Route{Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN}
	have, err := Dump(func() ([]netlink.Route, error) {
		return s.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return have, nil
}

// sameRoute compares what we set; the kernel sets the rest.
func sameRoute(a, b netlink.Route) bool {
	a, b = asKept(a), asKept(b)
	return a.Dst.String() == b.Dst.String() && a.Type == b.Type && a.Scope == b.Scope &&
		a.LinkIndex == b.LinkIndex && a.Priority == b.Priority && a.Gw.Equal(b.Gw) && a.Src.Equal(b.Src)
}

// asKept is a route as the kernel keeps it: IPv6 has no scopes and no metric
// of zero, and its unreachable routes are on lo.
func asKept(r netlink.Route) netlink.Route {
	if r.Dst == nil || r.Dst.IP.To4() != nil {
		return r
	}
	const defaultMetric = 1024
	r.Scope = netlink.SCOPE_UNIVERSE
	if r.Priority == 0 {
		r.Priority = defaultMetric
	}
	if r.Type == unix.RTN_UNREACHABLE {
		r.LinkIndex = 0
	}
	return r
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func hostPrefix(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

func ip(a netip.Addr) net.IP { return a.AsSlice() }
