package arena

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace that lives as long as it is held.
type namespace struct {
	handle netns.NsHandle
	link   *netlink.Handle
}

// newNamespace makes one, with loopback up, that forwards.
func newNamespace() (*namespace, error) {
	n := &namespace{handle: -1}
	err := onThread(func() (err error) {
		n.handle, err = netns.New()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return n, n.open()
}

// ownNamespace is the one that this process is in.
func ownNamespace() (*namespace, error) {
	h, err := netns.Get()
	if err != nil {
		return nil, err
	}
	n := &namespace{handle: h}
	return n, n.open()
}

func (n *namespace) open() (err error) {
	if n.link, err = netlink.NewHandleAt(n.handle); err != nil {
		return err
	}
	lo, err := n.link.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := n.link.LinkSetUp(lo); err != nil {
		return err
	}
	return n.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
}

func (n *namespace) close() error {
	if n.link != nil {
		n.link.Close()
	}
	return n.handle.Close()
}

// do runs f on a thread in the namespace; processes that f starts are in it.
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// cable joins a device of n to eth0 of other.
func (n *namespace) cable(device string, other *namespace) error {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: device}, PeerName: "eth0", PeerNamespace: netlink.NsFd(other.handle)}
	if err := n.link.LinkAdd(veth); err != nil {
		return fmt.Errorf("cable %s: %w", device, err)
	}
	return errors.Join(n.up(device), other.up("eth0"))
}

func (n *namespace) up(device string) error {
	l, err := n.link.LinkByName(device)
	if err != nil {
		return err
	}
	return n.link.LinkSetUp(l)
}

func (n *namespace) address(device string, a netip.Addr) error {
	l, err := n.link.LinkByName(device)
	if err != nil {
		return err
	}
	if err := n.link.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}); err != nil {
		return fmt.Errorf("address %s on %s: %w", a, device, err)
	}
	return nil
}

// route sends a prefix by a device, to via or straight on its link.
func (n *namespace) route(to netip.Prefix, via netip.Addr, device string) error {
	l, err := n.link.LinkByName(device)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(to), Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		r.Gw, r.Scope, r.Flags = via.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
	}
	if err := n.link.RouteAdd(r); err != nil {
		return fmt.Errorf("route %s on %s: %w", to, device, err)
	}
	return nil
}

// refuse answers packets to a prefix with an error. They leave no trace in
// the connection tracker, where a later one of the same ports would find it
// and stay untranslated.
func (n *namespace) refuse(to netip.Prefix) error {
	return n.link.RouteAdd(&netlink.Route{Dst: ipNet(to), Type: unix.RTN_UNREACHABLE})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
