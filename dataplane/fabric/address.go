package fabric

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// EnsureLocal makes a network namespace answer for an address that a device of
// it has, which is up. For IPv6 the kernel adds the local route from a work
// queue (addrconf_dad_work in net/ipv6/addrconf.c), on a busy host seconds
// after the address is there, and drops what comes until then. The route that
// is added here is of a worse metric than the kernel's, and goes with the
// device.
func EnsureLocal(h *netlink.Handle, device int, addr netip.Addr) error {
	if addr.Is4() {
		return nil
	}
	routes, err := h.RouteGet(ip(addr))
	if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
		return nil
	}
	if err := h.RouteReplace(&netlink.Route{
		Dst: hostPrefix(addr), LinkIndex: device, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
		Family: netlink.FAMILY_V6, Protocol: RouteProtocol,
	}); err != nil {
		return fmt.Errorf("answer for address %s: %w", addr, err)
	}
	return nil
}
