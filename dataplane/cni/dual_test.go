package cni_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

// forEach runs a test for both kinds of cluster with IPv6.
func forEach(t *testing.T, test func(*testing.T, *network, string)) {
	fabrictest.Root(t)
	for name, ranges := range map[string]fabric.Ranges{"dual": dual, "ipv6": onlyIPv6} {
		t.Run(name, func(t *testing.T) {
			host := fabrictest.NewHost(t)
			host.AddIPv6(t)
			fabrictest.Watch(t, host.Netns, fabrictest.Uplink, ranges.All()...)
			test(t, networkOf(t, host.Netns, ranges), host.Netns)
		})
	}
}

// same is the address of other's family among addrs.
func same(addrs []netip.Addr, other netip.Addr) netip.Addr {
	for _, a := range addrs {
		if a.Is4() == other.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func TestPodsReachEverybodyInEveryFamily(t *testing.T) {
	forEach(t, func(t *testing.T, n *network, hostNetns string) {
		type place struct {
			netns string
			ips   []netip.Addr
		}
		places := []place{{hostNetns, nil}}
		for _, subnet := range n.cfg.NodeSubnets {
			ip := subnet.Addr().Next().Next()
			places[0].ips = append(places[0].ips, ip)
			fabrictest.Serve(t, hostNetns, netip.AddrPortFrom(ip, port).String())
		}
		for _, node := range n.nodes {
			places = append(places, place{node.netns, node.IPs})
			for range 2 {
				p := node.addPod(t)
				if len(p.ips) != len(n.cfg.PodSubnets) {
					t.Errorf("pod has %v", p.ips)
				}
				for i, ip := range p.ips {
					if !node.PodCIDRs[i].Contains(ip) {
						t.Errorf("pod has %v, want one of each of %v, in that order", p.ips, node.PodCIDRs)
					}
					// The very first packets count: readiness probes send them.
					reaches(t, node.netns, ip, same(node.IPs, ip))
				}
				places = append(places, place{p.netns, p.ips})
			}
		}
		for _, from := range places {
			for _, to := range places {
				for _, ip := range to.ips {
					reaches(t, from.netns, ip, same(from.ips, ip))
				}
			}
		}
		nobody := []string{
			"fd00:f:80::63",   // node
			"fd00:f:81:0::63", // pod of a node
			"fd00:f:81:1::63",
			"fd00:f:81::1",    // never given to a pod
			"fd00:f:81:63::1", // pod of no node
			"fd00:f:83::9",    // load balancer
			"fd00:f:82::2c",   // service
		}
		for _, addr := range nobody {
			for _, from := range places {
				_, took, err := fabrictest.Ask(from.netns, "tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), port).String(), 5*time.Second)
				// Who has the unreachable route itself says "no route to host".
				if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH) || took > atOnce {
					t.Errorf("from %s to %s: %v after %s; want a refusal at once", from.netns, addr, err, took)
				}
			}
		}
	})
}

func TestPodIsCutOffInEveryFamily(t *testing.T) {
	forEach(t, func(t *testing.T, n *network, _ string) {
		home, far := n.nodes[0], n.nodes[1].addPod(t)
		gone, stays := home.addPod(t), home.addPod(t)
		must(t, home.plugin.Check(t.Context(), gone.id, gone.netns))
		must(t, home.plugin.Remove(t.Context(), gone.id, gone.netns))
		for _, ip := range gone.ips {
			if _, took, err := fabrictest.Ask(far.netns, "tcp", netip.AddrPortFrom(ip, port).String(), 5*time.Second); err == nil || took > atOnce {
				t.Errorf("%s: %v after %s", ip, err, took)
			}
		}
		for _, ip := range stays.ips {
			if _, _, err := fabrictest.Ask(gone.netns, "tcp", netip.AddrPortFrom(ip, port).String(), 300*time.Millisecond); err == nil {
				t.Errorf("a pod that was removed still reaches %s", ip)
			}
			reaches(t, far.netns, ip, same(far.ips, ip))
		}
		must(t, home.plugin.Check(t.Context(), stays.id, stays.netns))
		// A device that lost one of the addresses.
		h := fabrictest.Handle(t, stays.netns)
		eth0, err := h.LinkByName("eth0")
		must(t, err)
		must(t, h.AddrDel(eth0, fabric.Address(stays.ips[len(stays.ips)-1])))
		if err := home.plugin.Check(t.Context(), stays.id, stays.netns); err == nil {
			t.Error("a pod without its last address passes the check")
		}
	})
}

// TestPodCannotForgeItsIPv6Address is what policies rely on.
func TestPodCannotForgeItsIPv6Address(t *testing.T) {
	forEach(t, func(t *testing.T, n *network, _ string) {
		forger, victim := n.nodes[0].addPod(t), n.nodes[1].addPod(t)
		any6 := netip.IPv6Unspecified()
		own, to := same(forger.ips, any6), same(victim.ips, any6)
		forged := netip.MustParseAddr("fd00:f:81:2::2")
		var listener net.PacketConn
		must(t, fabrictest.In(victim.netns, func() (err error) {
			listener, err = net.ListenPacket("udp6", ":9999")
			return err
		}))
		defer listener.Close()
		send := func(from netip.Addr) {
			must(t, fabrictest.In(forger.netns, func() error {
				d := net.Dialer{LocalAddr: &net.UDPAddr{IP: from.AsSlice()}}
				c, err := d.Dial("udp6", netip.AddrPortFrom(to, 9999).String())
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Write([]byte(from.String()))
				return err
			}))
		}
		h := fabrictest.Handle(t, forger.netns)
		eth0, err := h.LinkByName("eth0")
		must(t, err)
		must(t, h.AddrAdd(eth0, fabric.Address(forged)))
		send(forged)
		send(own)
		buf := make([]byte, 64)
		must(t, listener.SetReadDeadline(time.Now().Add(time.Minute)))
		for {
			size, _, err := listener.ReadFrom(buf)
			must(t, err)
			if string(buf[:size]) == own.String() {
				return
			}
			t.Errorf("a packet from %s arrived", buf[:size])
		}
	})
}

func TestPodHearsNoRouterAndAsksNobody(t *testing.T) {
	forEach(t, func(t *testing.T, n *network, _ string) {
		p := n.nodes[0].addPod(t)
		if got := fabrictest.ReadSysctl(t, p.netns, "net/ipv6/conf/eth0/accept_ra"); got != "0" {
			t.Errorf("accept_ra is %s", got)
		}
		h := fabrictest.Handle(t, p.netns)
		eth0, err := h.LinkByName("eth0")
		must(t, err)
		addrs, err := fabric.Dump(func() ([]netlink.Addr, error) { return h.AddrList(eth0, netlink.FAMILY_V6) })
		must(t, err)
		if len(addrs) != 1 || addrs[0].Flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("eth0 has %v, want one address that is ready", addrs)
		}
	})
}

// TestPodPacketsOfFullSizePass sends the largest packets that the pods'
// devices take, which may not be fragmented, through every hop.
func TestPodPacketsOfFullSizePass(t *testing.T) {
	forEach(t, func(t *testing.T, n *network, hostNetns string) {
		from, to := n.nodes[0].addPod(t), n.nodes[1].addPod(t)
		for _, ip := range to.ips {
			level, option, probe, headers := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, 20+8
			if ip.Is6() {
				level, option, probe, headers = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, 40+8
			}
			var listener net.PacketConn
			must(t, fabrictest.In(to.netns, func() (err error) {
				listener, err = net.ListenPacket("udp", netip.AddrPortFrom(ip, 9999).String())
				return err
			}))
			for _, netns := range []string{from.netns, n.nodes[2].netns, hostNetns} {
				must(t, fabrictest.In(netns, func() error {
					c, err := net.Dial("udp", netip.AddrPortFrom(ip, 9999).String())
					if err != nil {
						return err
					}
					defer c.Close()
					raw, err := c.(*net.UDPConn).SyscallConn()
					if err != nil {
						return err
					}
					if err := errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, probe) }), err); err != nil {
						return err
					}
					if _, err := c.Write(make([]byte, 1501-headers)); !errors.Is(err, unix.EMSGSIZE) {
						t.Errorf("%s: a packet of 1501: %v, want %v", ip, err, unix.EMSGSIZE)
					}
					_, err = c.Write(make([]byte, 1500-headers))
					return err
				}))
				must(t, listener.SetReadDeadline(time.Now().Add(time.Minute)))
				if size, _, err := listener.ReadFrom(make([]byte, 2000)); err != nil || size != 1500-headers {
					t.Errorf("%s: received %d, %v", ip, size, err)
				}
			}
			listener.Close()
		}
	})
}
