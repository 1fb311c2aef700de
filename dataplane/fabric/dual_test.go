package fabric_test

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

// clusters are those that have IPv6.
var clusters = map[string]fabric.Ranges{
	"dual": prefixes("100.70.0.0/24,fd00:f:70::/64", "100.71.0.0/16,fd00:f:71::/56", "100.72.0.0/16,fd00:f:72::/112", "100.73.0.0/24,fd00:f:73::/112"),
	"ipv6": prefixes("fd00:f:70::/64", "fd00:f:71::/56", "fd00:f:72::/112", "fd00:f:73::/112"),
}

// forEach runs a test in a host with IPv6, for each kind of cluster.
func forEach(t *testing.T, test func(*testing.T, fabrictest.Host, fabric.Config)) {
	fabrictest.Root(t)
	for name, ranges := range clusters {
		t.Run(name, func(t *testing.T) {
			host := fabrictest.NewHost(t)
			host.AddIPv6(t)
			cfg := configIn(t, host.Netns, "fabrictest", ranges)
			fabrictest.Watch(t, host.Netns, fabrictest.Uplink, cfg.All()...)
			test(t, host, cfg)
		})
	}
}

// last is the node's IPv6 address in either kind of cluster.
func last(addrs []netip.Addr) netip.Addr { return addrs[len(addrs)-1] }

func TestFabricIPv6ConnectsHostAndNodes(t *testing.T) {
	forEach(t, func(t *testing.T, host fabrictest.Host, cfg fabric.Config) {
		start := time.Now()
		f := up(t, cfg)
		t.Log("three nodes took", time.Since(start))
		connectsIPv6(t, f, cfg, host.Netns)
		// The host answers its nodes, at any of its addresses.
		for _, addr := range []netip.Addr{netip.MustParseAddr("fd00:f:70::2"), fabrictest.HostAddr6} {
			fabrictest.Serve(t, host.Netns, netip.AddrPortFrom(addr, port).String())
			reaches(t, f.NodeNetns("worker"), addr, last(cfg.Nodes[1].IPs))
		}
	})
}

// TestFabricIPv6OnThisHost is the same next to the machine's real uplink.
func TestFabricIPv6OnThisHost(t *testing.T) {
	fabrictest.Root(t)
	cfg := configIn(t, "", "fabrictest", clusters["dual"])
	if err := fabric.Conflicts(cfg.Ranges, inUse(t, "")); err != nil {
		t.Skip("the test's ranges are in use here: ", err)
	}
	for _, device := range fabrictest.Uplinks(t, fabrictest.Here) {
		fabrictest.Watch(t, fabrictest.Here, device, cfg.All()...)
	}
	connectsIPv6(t, up(t, cfg), cfg, fabrictest.Here)
}

func connectsIPv6(t *testing.T, f *fabric.Fabric, cfg fabric.Config, hostNetns string) {
	t.Helper()
	hostIP := netip.MustParseAddr("fd00:f:70::2")
	for i, to := range cfg.Nodes {
		reaches(t, hostNetns, last(to.IPs), hostIP)
		from := cfg.Nodes[(i+1)%len(cfg.Nodes)]
		reaches(t, f.NodeNetns(from.Name), last(to.IPs), last(from.IPs))
		if len(to.IPs) > 1 {
			reaches(t, f.NodeNetns(from.Name), to.IPs[0], from.IPs[0])
		}
	}
	for addr, service := range map[string]bool{
		"fd00:f:70::63":    false, // node
		"fd00:f:71:1::63":  false, // pod of a node
		"fd00:f:71:63::1":  false, // pod of no node
		"fd00:f:73::9":     true,  // load balancer
		"fd00:f:73::ffff":  true,  // load balancer
		"fd00:f:72::2c":    true,
		"fd00:f:72::ffff":  true,
		"fd00:f:70::1":     true, // the switch itself
		"fd00:f:71:ff:1::": false,
	} {
		to := netip.MustParseAddr(addr)
		for _, from := range []string{hostNetns, f.SwitchNetns(), f.NodeNetns("control-plane"), f.NodeNetns("worker")} {
			_, took, err := fabrictest.Ask(from, "tcp", netip.AddrPortFrom(to, port).String(), 5*time.Second)
			// Who has the unreachable route itself says "no route to host".
			answered := errors.Is(err, unix.ECONNREFUSED) || !service && errors.Is(err, unix.EHOSTUNREACH)
			if !answered || took > atOnce {
				t.Errorf("from %s to %s: %v after %s", from, to, err, took)
			}
		}
	}
}

func TestFabricIPv6SecondEnsureWritesNothing(t *testing.T) {
	forEach(t, func(t *testing.T, host fabrictest.Host, cfg fabric.Config) {
		f := up(t, cfg)
		for _, n := range cfg.Nodes {
			awaitKernel(t, f.NodeNetns(n.Name), n.IPs...)
		}
		for _, subnet := range cfg.NodeSubnets {
			first := subnet.Addr().Next()
			awaitKernel(t, f.SwitchNetns(), first)
			awaitKernel(t, host.Netns, first.Next())
		}
		watched := map[string]*changes{"host": watchChanges(t, host.Netns), "switch": watchChanges(t, f.SwitchNetns())}
		for _, n := range cfg.Nodes {
			watched[n.Name] = watchChanges(t, f.NodeNetns(n.Name))
		}
		ensure(t, fabric.New(cfg), cfg)
		for where, c := range watched {
			if got := c.all(t); len(got) > 0 {
				t.Errorf("%s: the second Ensure changed something: %v", where, got)
			}
		}
	})
}

// awaitKernel waits until the kernel has added its own local routes for
// addresses.
func awaitKernel(t *testing.T, path string, addrs ...netip.Addr) {
	t.Helper()
	h := fabrictest.Handle(t, path)
	for _, addr := range addrs {
		want := &netlink.Route{
			Dst: netlink.NewIPNet(addr.AsSlice()), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Protocol: unix.RTPROT_KERNEL}
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			routes, err := fabric.Dump(func() ([]netlink.Route, error) {
				return h.RouteListFiltered(netlink.FAMILY_ALL, want,
					netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
			})
			must(t, err)
			if len(routes) > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the kernel has no local route for %s", path, addr)
			}
		}
	}
}

// TestFabricIPv6NothingLeaves sends to the cluster's ranges before it is
// there, while its cable is gone, and as it is taken down.
func TestFabricIPv6NothingLeaves(t *testing.T) {
	forEach(t, func(t *testing.T, host fabrictest.Host, cfg fabric.Config) {
		f := up(t, cfg)
		send := func() {
			must(t, fabrictest.In(host.Netns, func() error {
				c, err := net.ListenPacket("udp6", ":0")
				if err != nil {
					return err
				}
				defer c.Close()
				for _, to := range []string{"fd00:f:70::a", "fd00:f:70::63", "fd00:f:71:1::2", "fd00:f:72::a", "fd00:f:73::3"} {
					// Most are refused, as they should be.
					_, _ = c.WriteTo([]byte("?"), &net.UDPAddr{IP: net.ParseIP(to), Port: port})
				}
				return nil
			}))
		}
		h := fabrictest.Handle(t, host.Netns)
		link, err := h.LinkByName(f.HostDevice())
		must(t, err)
		must(t, h.LinkDel(link))
		send()
		ensure(t, f, cfg)
		send()
		must(t, f.Remove(t.Context()))
		routes, err := fabric.Dump(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: fabric.RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		must(t, err)
		if len(routes) > 0 {
			t.Errorf("routes left on the host: %v", routes)
		}
	})
}

func TestFabricIPv6Egress(t *testing.T) {
	forEach(t, func(t *testing.T, host fabrictest.Host, cfg fabric.Config) {
		fabrictest.Serve(t, host.Outside, netip.AddrPortFrom(fabrictest.OutsideAddr6, port).String())
		f := up(t, cfg)
		worker := f.NodeNetns("worker")
		refused(t, worker, fabrictest.OutsideAddr6, unix.ECONNREFUSED)
		_, took, err := fabrictest.Ask(worker, "udp", netip.AddrPortFrom(fabrictest.OutsideAddr6, port).String(), 5*time.Second)
		if !errors.Is(err, unix.EACCES) || took > atOnce {
			t.Errorf("udp: %v after %s, want %v at once", err, took, unix.EACCES)
		}
		if f.EgressHint() == "" {
			t.Error("no hint how to get beyond the host")
		}
		// Behind our back: nothing leaves unmasqueraded, Watch sees to that.
		fabrictest.Sysctl(t, host.Netns, "net/ipv6/conf/all/forwarding", "1")
		refused(t, worker, fabrictest.OutsideAddr6, unix.ECONNREFUSED)
		must(t, f.EnsureEgress())
		reaches(t, worker, fabrictest.OutsideAddr6, fabrictest.HostAddr6)
		reaches(t, worker, last(cfg.Nodes[0].IPs), last(cfg.Nodes[1].IPs))

		// And no neighbour of the host gets in.
		h := fabrictest.Handle(t, host.Outside)
		inward, err := h.LinkByName("inward")
		must(t, err)
		to := last(cfg.Nodes[0].IPs)
		must(t, h.RouteAdd(&netlink.Route{Dst: netlink.NewIPNet(to.AsSlice()), LinkIndex: inward.Attrs().Index, Gw: fabrictest.HostAddr6.AsSlice()}))
		if _, _, err := fabrictest.Ask(host.Outside, "tcp", netip.AddrPortFrom(to, port).String(), 300*time.Millisecond); err == nil {
			t.Error("a neighbour of the host reached a node")
		}
	})
}

// TestFabricIPv6HearsNoRouter is what a router's advertisement would change.
func TestFabricIPv6HearsNoRouter(t *testing.T) {
	forEach(t, func(t *testing.T, host fabrictest.Host, cfg fabric.Config) {
		f := up(t, cfg)
		for netns, device := range map[string]string{host.Netns: f.HostDevice(), f.SwitchNetns(): fabric.SwitchUplink, f.NodeNetns("worker"): fabric.NodeUplink} {
			for _, setting := range []string{"accept_ra", "accept_redirects"} {
				if got := fabrictest.ReadSysctl(t, netns, "net/ipv6/conf/"+device+"/"+setting); got != "0" {
					t.Errorf("%s of %s is %s", setting, device, got)
				}
			}
			link, err := fabrictest.Handle(t, netns).LinkByName(device)
			must(t, err)
			addrs, err := fabric.Dump(func() ([]netlink.Addr, error) { return fabrictest.Handle(t, netns).AddrList(link, netlink.FAMILY_V6) })
			must(t, err)
			for _, a := range addrs {
				if a.IP.IsLinkLocalUnicast() || a.Flags&unix.IFA_F_TENTATIVE != 0 {
					t.Errorf("%s has the address %s", device, a)
				}
			}
		}
		// The host's own devices stay as they were.
		for _, setting := range []string{"net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/disable_ipv6"} {
			if got := fabrictest.ReadSysctl(t, host.Netns, setting); got != "0" {
				t.Errorf("%s of the host became %s", setting, got)
			}
		}
	})
}

// TestFabricForeignPodsAreLeftAlone is a node whose pods another plugin
// connects: a bridge that asks its neighbours from link-local addresses.
func TestFabricForeignPodsAreLeftAlone(t *testing.T) {
	forEach(t, func(t *testing.T, host fabrictest.Host, cfg fabric.Config) {
		cfg.ForeignPods = true
		f := up(t, cfg)
		connectsIPv6(t, f, cfg, host.Netns)
		worker := f.NodeNetns("worker")
		for setting, want := range map[string]string{"accept_dad": "1", "addr_gen_mode": "0", "disable_ipv6": "0"} {
			if got := fabrictest.ReadSysctl(t, worker, "net/ipv6/conf/default/"+setting); got != want {
				t.Errorf("%s of a new device is %s, want %s", setting, got, want)
			}
		}
	})
}

func TestFabricHostMTU(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	host.AddIPv6(t)
	h := fabrictest.Handle(t, host.Netns)
	uplink, err := h.LinkByName(fabrictest.Uplink)
	must(t, err)
	for device, want := range map[int]int{1500: 1500, 1400: 1400, 9000: 1500, 1280: 1280} {
		must(t, h.LinkSetMTU(uplink, device))
		if got, err := fabric.HostMTU(host.Netns); err != nil || got != want {
			t.Errorf("with an uplink of %d: got %d, %v, want %d", device, got, err, want)
		}
	}
}

// BenchmarkFabricUp is a cluster's network from nothing to three nodes, by
// families: IPv6 may not cost a start its second of duplicate detection.
func BenchmarkFabricUp(b *testing.B) {
	fabrictest.Root(b)
	kinds := map[string]fabric.Ranges{"ipv4": prefixes("100.70.0.0/24", "100.71.0.0/16", "100.72.0.0/16", "100.73.0.0/24")}
	maps.Copy(kinds, clusters)
	for name, ranges := range kinds {
		b.Run(name, func(b *testing.B) {
			host := fabrictest.NewHost(b)
			host.AddIPv6(b)
			cfg := configIn(b, host.Netns, "fabrictest", ranges)
			for b.Loop() {
				f := fabric.New(cfg)
				ensure(b, f, cfg)
				b.StopTimer()
				must(b, f.Remove(b.Context()))
				b.StartTimer()
			}
		})
	}
}
