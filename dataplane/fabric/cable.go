package fabric

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// end is one end of a cable.
type end struct {
	space *space
	// device is the end's name in its namespace.
	device string
	mac    net.HardwareAddr
	// addresses are the end's own.
	addresses []netip.Addr
	// neighbours are addresses that answer at the other end.
	neighbours []netip.Addr
}

// plug ensures a veth pair between two namespaces, with addresses and
// permanent neighbours, up. Hardware addresses are set by us, so that udev
// does not assign others behind our back, and nothing is ever asked by ARP.
// It returns the two devices' indices.
func plug(a, b end, mtu int) (ai, bi int, err error) {
	linkA, linkB, err := ensurePair(a, b, mtu)
	if err != nil {
		return 0, 0, fmt.Errorf("plug cable %s: %w", a.device, err)
	}
	for _, e := range []struct {
		end
		other net.HardwareAddr
		link  netlink.Link
	}{{a, b.mac, linkA}, {b, a.mac, linkB}} {
		if err := configureEnd(e.end, e.link, e.other, mtu); err != nil {
			return 0, 0, fmt.Errorf("configure device %s: %w", e.device, err)
		}
	}
	if err := errors.Join(AwaitCarrier(a.space.Handle, linkA.Attrs().Index), AwaitCarrier(b.space.Handle, linkB.Attrs().Index)); err != nil {
		return 0, 0, fmt.Errorf("plug cable %s: %w", a.device, err)
	}
	return linkA.Attrs().Index, linkB.Attrs().Index, nil
}

// AwaitCarrier returns when a device whose other end has just come up really
// sends. The end that was up first keeps dropping packets until the kernel's
// link watch has seen the carrier, which may be a second later if both ends
// have the same index. Reading the link makes it look now (Linux 6.8: "net:
// rtnetlink: sync link state"); older kernels are asked again.
func AwaitCarrier(h *netlink.Handle, index int) error {
	const patience = 3 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		link, err := h.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("wait for carrier: %w", err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for carrier: still %s after %s", link.Attrs().OperState, patience)
		}
	}
}

// ensurePair returns the two ends, made anew unless they exist as each
// other's peers.
func ensurePair(a, b end, mtu int) (netlink.Link, netlink.Link, error) {
	linkA, linkB, err := findPair(a, b)
	if err != nil {
		return nil, nil, err
	}
	if arePeers(linkA, linkB) {
		return linkA, linkB, nil
	}
	for _, stale := range []struct {
		space *space
		link  netlink.Link
	}{{a.space, linkA}, {b.space, linkB}} {
		if stale.link == nil {
			continue
		}
		if err := unplug(stale.space, stale.link.Attrs().Name); err != nil {
			return nil, nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = a.device, mtu, a.mac
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = b.device, uint32(mtu), b.mac
	veth.PeerNamespace = netlink.NsFd(b.space.fd())
	if err := a.space.LinkAdd(veth); err != nil {
		return nil, nil, err
	}
	if linkA, linkB, err = findPair(a, b); err != nil {
		return nil, nil, err
	}
	if linkA == nil || linkB == nil {
		return nil, nil, errors.New("an end was taken away")
	}
	return linkA, linkB, nil
}

func findPair(a, b end) (linkA, linkB netlink.Link, err error) {
	if linkA, err = findLink(a.space, a.device); err != nil {
		return nil, nil, err
	}
	if linkB, err = findLink(b.space, b.device); err != nil {
		return nil, nil, err
	}
	return linkA, linkB, nil
}

// findLink returns nil if there is no such device.
func findLink(s *space, name string) (netlink.Link, error) {
	link, err := s.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	return link, err
}

func arePeers(a, b netlink.Link) bool {
	return a != nil && b != nil && a.Type() == "veth" && b.Type() == "veth" &&
		a.Attrs().ParentIndex == b.Attrs().Index && b.Attrs().ParentIndex == a.Attrs().Index
}

// unplug removes a device, and with it the other end of its cable.
func unplug(s *space, name string) error {
	link, err := findLink(s, name)
	if err != nil || link == nil {
		return err
	}
	if err := s.LinkDel(link); err != nil {
		// Its other end may have gone with its namespace meanwhile.
		if again, lookup := findLink(s, name); lookup == nil && again == nil {
			return nil
		}
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

func configureEnd(e end, link netlink.Link, other net.HardwareAddr, mtu int) error {
	have := link.Attrs()
	if have.MTU != mtu {
		if err := e.space.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set mtu %d: %w", mtu, err)
		}
	}
	if !bytes.Equal(have.HardwareAddr, e.mac) {
		if err := e.space.LinkSetHardwareAddr(link, e.mac); err != nil {
			return fmt.Errorf("set hardware address: %w", err)
		}
	}
	// Before the addresses: a device that may not have IPv6 takes none.
	if err := ensureSilent(e, link); err != nil {
		return err
	}
	for _, address := range e.addresses {
		if err := ensureAddress(e.space, link, address); err != nil {
			return err
		}
	}
	if err := ensureUp(e.space, link); err != nil {
		return err
	}
	for _, address := range e.addresses {
		if err := EnsureLocal(e.space.Handle, link.Attrs().Index, address); err != nil {
			return err
		}
	}
	for _, neighbour := range e.neighbours {
		if err := ensureNeighbour(e.space, link, neighbour, other); err != nil {
			return err
		}
	}
	return nil
}

// ensureSilent sets up IPv6 on a device that is not up yet, the host's end of
// a cable too: off if the cluster has no IPv6, and else without addresses that
// the kernel makes, which would announce themselves, and deaf to routers.
func ensureSilent(e end, link netlink.Link) error {
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	settings := []setting{{"disable_ipv6", "1"}}
	if slices.ContainsFunc(e.neighbours, netip.Addr.Is6) {
		settings = []setting{{"disable_ipv6", "0"}, {"addr_gen_mode", "1"}, {"accept_ra", "0"}, {"accept_redirects", "0"}, {"accept_dad", "0"}}
	}
	err := Do(e.space.path, func() error {
		for _, s := range settings {
			if err := writeSetting(setting{"net/ipv6/conf/" + e.device + "/" + s.path, s.value}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("silence ipv6: %w", err)
	}
	return nil
}

func ensureUp(s *space, link netlink.Link) error {
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := s.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// ensureLoopback brings lo up and returns its index.
func ensureLoopback(s *space) (netlink.Link, error) {
	lo, err := s.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find device lo: %w", err)
	}
	return lo, ensureUp(s, lo)
}

func ensureAddress(s *space, link netlink.Link, addr netip.Addr) error {
	want := hostPrefix(addr)
	have, err := Dump(func() ([]netlink.Addr, error) { return s.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			return nil
		}
	}
	if err := s.AddrAdd(link, Address(addr)); err != nil {
		return fmt.Errorf("add address %s: %w", addr, err)
	}
	return nil
}

// Address is a device's address as the fabric sets it: alone in its subnet,
// and of use at once. Nobody else can have it, so the kernel need not ask for
// duplicates, which takes it a second.
func Address(addr netip.Addr) *netlink.Addr {
	a := &netlink.Addr{IPNet: hostPrefix(addr)}
	if addr.Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// Neighbour is a permanent neighbour.
func Neighbour(device int, addr netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	n := &netlink.Neigh{
		LinkIndex: device, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: ip(addr), HardwareAddr: mac}
	if addr.Is6() {
		n.Family = netlink.FAMILY_V6
	}
	return n
}

func ensureNeighbour(s *space, link netlink.Link, addr netip.Addr, mac net.HardwareAddr) error {
	want := Neighbour(link.Attrs().Index, addr, mac)
	have, err := Dump(func() ([]netlink.Neigh, error) { return s.NeighList(want.LinkIndex, want.Family) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range have {
		if n.IP.Equal(want.IP) && n.State == want.State && bytes.Equal(n.HardwareAddr, mac) {
			return nil
		}
	}
	if err := s.NeighSet(want); err != nil {
		return fmt.Errorf("set neighbour %s: %w", addr, err)
	}
	return nil
}

// Hardware addresses are locally administered, and the same at every start:
// 0a:58 and the end of the node's (or the host's) first address for the outer
// end, 0a:59 for the switch's.
func outerMAC(ip netip.Addr) net.HardwareAddr { return MAC(0x58, ip) }

func switchMAC(ip netip.Addr) net.HardwareAddr { return MAC(0x59, ip) }

// MAC is a hardware address that derives from an address.
func MAC(second byte, ip netip.Addr) net.HardwareAddr {
	bytes := ip.AsSlice()
	return append(net.HardwareAddr{0x0a, second}, bytes[len(bytes)-4:]...)
}

// Dump repeats a listing that the kernel says was interrupted by a change.
func Dump[T any](list func() ([]T, error)) ([]T, error) {
	for {
		got, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
}
