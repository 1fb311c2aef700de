package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

var (
	// gateway is the next hop of every pod: the node's end of its cable. It
	// is no address of the node; a permanent neighbour leads there.
	gateway    = netip.MustParseAddr("169.254.1.1")
	gatewayMAC = net.HardwareAddr{0x0a, 0x59, 169, 254, 1, 1}
	loopback   = netip.MustParseAddr("127.0.0.1")
	everything = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
)

// attach makes the cable of a sandbox and returns the pod's hardware address.
// The route to the pod comes last: until then the address is unreachable, and
// after it the pod answers.
func (p *Plugin) attach(id, path string, addr netip.Addr) (net.HardwareAddr, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer file.Close()
	pod, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer pod.Close()

	v4 := addr.As4()
	mac := append(net.HardwareAddr{0x0a, 0x58}, v4[:]...)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Flags = deviceOf(id), p.cfg.MTU, gatewayMAC, net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = podDevice, uint32(p.cfg.MTU), mac
	veth.PeerNamespace = netlink.NsFd(int(file.Fd()))
	if err := p.node.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make device %s: %w", attrs.Name, err)
	}
	if err := configurePod(pod, addr); err != nil {
		return nil, err
	}
	if err := fabric.AwaitCarrier(p.node, veth.Index); err != nil {
		return nil, err
	}
	err = p.node.NeighSet(&netlink.Neigh{
		LinkIndex: veth.Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac})
	if err != nil {
		return nil, fmt.Errorf("set neighbour %s: %w", addr, err)
	}
	if err := p.node.RouteReplace(p.route(addr, veth.Index)); err != nil {
		return nil, fmt.Errorf("set route to %s: %w", addr, err)
	}
	return mac, nil
}

// route is the node's route to a pod.
func (p *Plugin) route(addr netip.Addr, device int) *netlink.Route {
	return &netlink.Route{
		LinkIndex: device, Dst: prefixNet(netip.PrefixFrom(addr, 32)), Src: p.cfg.NodeIP.AsSlice(),
		Scope: netlink.SCOPE_LINK, Protocol: fabric.RouteProtocol,
	}
}

// configurePod sets up the pod's end of the cable.
func configurePod(pod *netlink.Handle, addr netip.Addr) error {
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the pod's lo: %w", err)
	}
	if err := pod.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the pod's lo up: %w", err)
	}
	link, err := pod.LinkByName(podDevice)
	if err != nil {
		return fmt.Errorf("find the pod's %s: %w", podDevice, err)
	}
	// No link-local address, hence no multicast of neighbour and router
	// discovery. Kernels without IPv6 do not know the attribute.
	const addrGenModeNone = 1
	if err := pod.LinkSetIP6AddrGenMode(link, addrGenModeNone); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("silence the pod's ipv6: %w", err)
	}
	if err := pod.AddrAdd(link, &netlink.Addr{IPNet: prefixNet(netip.PrefixFrom(addr, 32))}); err != nil {
		return fmt.Errorf("add address %s: %w", addr, err)
	}
	if err := pod.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the pod's %s up: %w", podDevice, err)
	}
	index := link.Attrs().Index
	err = pod.NeighSet(&netlink.Neigh{
		LinkIndex: index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: gatewayMAC})
	if err != nil {
		return fmt.Errorf("set the pod's gateway: %w", err)
	}
	for _, r := range podRoutes(index) {
		if err := pod.RouteAdd(&r); err != nil {
			return fmt.Errorf("add the pod's route %s: %w", r.Dst, err)
		}
	}
	return nil
}

func podRoutes(device int) []netlink.Route {
	return []netlink.Route{
		{LinkIndex: device, Dst: prefixNet(netip.PrefixFrom(gateway, 32)), Scope: netlink.SCOPE_LINK, Protocol: fabric.RouteProtocol},
		{LinkIndex: device, Dst: prefixNet(everything), Gw: gateway.AsSlice(), Protocol: fabric.RouteProtocol},
	}
}

// cut removes the node's route to a pod.
func (p *Plugin) cut(id string, addr netip.Addr) error {
	link, err := p.node.LinkByName(deviceOf(id))
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find device %s: %w", deviceOf(id), err)
	}
	if err := p.node.RouteDel(p.route(addr, link.Attrs().Index)); err != nil && !gone(err) {
		return fmt.Errorf("remove route to %s: %w", addr, err)
	}
	return nil
}

// unplug removes the sandbox's cable, and with it its routes.
func (p *Plugin) unplug(id string) error {
	name := deviceOf(id)
	link, err := p.node.LinkByName(name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if err := p.node.LinkDel(link); err != nil && !gone(err) {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

// check compares a sandbox's cable with what attach makes.
func (p *Plugin) check(id, path string, addr netip.Addr) error {
	name := deviceOf(id)
	link, err := p.node.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("device %s is down", name)
	}
	routes, err := p.node.RouteListFiltered(netlink.FAMILY_V4, p.route(addr, link.Attrs().Index),
		netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	if len(routes) == 0 {
		return fmt.Errorf("no route to %s by device %s", addr, name)
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer file.Close()
	pod, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer pod.Close()
	eth, err := pod.LinkByName(podDevice)
	if err != nil {
		return fmt.Errorf("find the pod's %s: %w", podDevice, err)
	}
	addrs, err := pod.AddrList(eth, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the pod's addresses: %w", err)
	}
	for _, a := range addrs {
		if a.IP.Equal(addr.AsSlice()) {
			return nil
		}
	}
	return fmt.Errorf("the pod's %s has no address %s", podDevice, addr)
}

func prefixNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
