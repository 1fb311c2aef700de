package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

// gatewayMAC is the hardware address of the node's end of every cable.
var gatewayMAC = net.HardwareAddr{0x0a, 0x59, 169, 254, 1, 1}

// way is what is the same for all pods of a family.
type way struct {
	// gateway is the next hop of every pod: the node's end of its cable. It is
	// no address of the node; a permanent neighbour leads there.
	gateway, loopback netip.Addr
	everything        netip.Prefix
}

var ways = map[fabric.Family]way{
	fabric.IPv4: {netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParsePrefix("0.0.0.0/0")},
	fabric.IPv6: {netip.MustParseAddr("fe80::1"), netip.IPv6Loopback(), netip.MustParsePrefix("::/0")},
}

func wayOf(a netip.Addr) way { return ways[fabric.FamilyOf(a)] }

// attach makes the cable of a sandbox and returns the pod's hardware address.
// The routes to the pod come last: until then the addresses are unreachable,
// and after it the pod answers.
func (p *Plugin) attach(r reservation, path string, limits limits) (net.HardwareAddr, error) {
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

	mac := fabric.MAC(0x58, r.IPs[0])
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Flags = deviceOf(r.ID), p.cfg.MTU, gatewayMAC, net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = podDevice, uint32(p.cfg.MTU), mac
	veth.PeerNamespace = netlink.NsFd(int(file.Fd()))
	if err := p.node.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make device %s: %w", attrs.Name, err)
	}
	if slices.ContainsFunc(r.IPs, netip.Addr.Is6) {
		if err := ignoreRouters(path); err != nil {
			return nil, err
		}
	}
	if err := configurePod(pod, r.IPs, limits); err != nil {
		return nil, err
	}
	if err := limits.ingress.apply(p.node, veth.Index); err != nil {
		return nil, fmt.Errorf("limit ingress bandwidth: %w", err)
	}
	if p.cfg.Connected != nil {
		if err := p.cfg.Connected(attrs.Name); err != nil {
			return nil, err
		}
	}
	if err := fabric.AwaitCarrier(p.node, veth.Index); err != nil {
		return nil, err
	}
	for _, addr := range r.IPs {
		if err := p.node.NeighSet(fabric.Neighbour(veth.Index, addr, mac)); err != nil {
			return nil, fmt.Errorf("set neighbour %s: %w", addr, err)
		}
		if err := p.node.RouteReplace(p.route(addr, veth.Index)); err != nil {
			return nil, fmt.Errorf("set route to %s: %w", addr, err)
		}
	}
	return mac, nil
}

// route is the node's route to a pod.
func (p *Plugin) route(addr netip.Addr, device int) *netlink.Route {
	r := onLink(addr, device)
	r.Src = p.nodeIP(addr).AsSlice()
	return &r
}

// onLink leads to an address at the other end of a pod's cable.
func onLink(addr netip.Addr, device int) netlink.Route {
	r := netlink.Route{LinkIndex: device, Dst: prefixNet(netip.PrefixFrom(addr, addr.BitLen())), Protocol: fabric.RouteProtocol}
	if addr.Is4() { // IPv6 has no scopes
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

// nodeIP is the node's address of the family of addr.
func (p *Plugin) nodeIP(addr netip.Addr) netip.Addr {
	for _, ip := range p.cfg.NodeIPs {
		if ip.Is4() == addr.Is4() {
			return ip
		}
	}
	return netip.Addr{}
}

// ignoreRouters makes the pod's device, which is not up yet, deaf to router
// advertisements: its routes are ours.
func ignoreRouters(path string) error {
	err := fabric.Do(path, func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/"+podDevice+"/accept_ra", []byte("0"), 0)
	})
	if err != nil {
		return fmt.Errorf("ignore routers in the pod: %w", err)
	}
	return nil
}

// configurePod sets up the pod's end of the cable.
func configurePod(pod *netlink.Handle, addrs []netip.Addr, limits limits) error {
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
	for _, addr := range addrs {
		if err := pod.AddrAdd(link, fabric.Address(addr)); err != nil {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
	}
	if err := pod.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the pod's %s up: %w", podDevice, err)
	}
	index := link.Attrs().Index
	if err := limits.egress.apply(pod, index); err != nil {
		return fmt.Errorf("limit egress bandwidth: %w", err)
	}
	for _, addr := range addrs {
		if err := fabric.EnsureLocal(pod, index, addr); err != nil {
			return err
		}
		way := wayOf(addr)
		if err := pod.NeighSet(fabric.Neighbour(index, way.gateway, gatewayMAC)); err != nil {
			return fmt.Errorf("set the pod's gateway: %w", err)
		}
		for _, r := range []netlink.Route{
			onLink(way.gateway, index),
			{LinkIndex: index, Dst: prefixNet(way.everything), Gw: way.gateway.AsSlice(), Protocol: fabric.RouteProtocol},
		} {
			if err := pod.RouteAdd(&r); err != nil {
				return fmt.Errorf("add the pod's route %s: %w", r.Dst, err)
			}
		}
	}
	return nil
}

// cut removes the node's routes to a pod.
func (p *Plugin) cut(r reservation) error {
	link, err := p.node.LinkByName(deviceOf(r.ID))
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find device %s: %w", deviceOf(r.ID), err)
	}
	for _, addr := range r.IPs {
		if err := p.node.RouteDel(p.route(addr, link.Attrs().Index)); err != nil && !gone(err) {
			return fmt.Errorf("remove route to %s: %w", addr, err)
		}
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
func (p *Plugin) check(r reservation, path string) error {
	name := deviceOf(r.ID)
	link, err := p.node.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("device %s is down", name)
	}
	for _, addr := range r.IPs {
		routes, err := fabric.Dump(func() ([]netlink.Route, error) {
			return p.node.RouteListFiltered(netlink.FAMILY_ALL, p.route(addr, link.Attrs().Index),
				netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		if len(routes) == 0 {
			return fmt.Errorf("no route to %s by device %s", addr, name)
		}
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
	have, err := fabric.Dump(func() ([]netlink.Addr, error) { return pod.AddrList(eth, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list the pod's addresses: %w", err)
	}
	for _, addr := range r.IPs {
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IP.Equal(addr.AsSlice()) }) {
			return fmt.Errorf("the pod's %s has no address %s", podDevice, addr)
		}
	}
	return nil
}

func prefixNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
