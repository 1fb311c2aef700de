package fabric_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

// changes collects what the kernel says about changes in a namespace.
type changes struct {
	sockets []*nl.NetlinkSocket
}

func watchChanges(t testing.TB, path string) *changes {
	t.Helper()
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	c := &changes{}
	subscribe := func(protocol int, groups ...uint) {
		s, err := nl.SubscribeAt(netns.NsHandle(file.Fd()), netns.None(), protocol, groups...)
		must(t, err)
		t.Cleanup(s.Close)
		must(t, s.SetReceiveTimeout(&unix.Timeval{Usec: 20_000}))
		c.sockets = append(c.sockets, s)
	}
	subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEIGH)
	subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	return c
}

// all returns the types of the messages so far, in order per socket, and for
// routes what they say.
func (c *changes) all(t testing.TB) []string {
	t.Helper()
	var found []string
	for _, s := range c.sockets {
		for {
			messages, _, err := s.Receive()
			if err != nil {
				break
			}
			for _, m := range messages {
				found = append(found, describe(m.Header.Type, m.Data))
			}
		}
	}
	return found
}

func describe(kind uint16, data []byte) string {
	switch kind {
	case unix.RTM_NEWLINK:
		return "+device"
	case unix.RTM_DELLINK:
		return "-device"
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		sign := map[uint16]string{unix.RTM_NEWROUTE: "+", unix.RTM_DELROUTE: "-"}[kind]
		if nl.DeserializeRtMsg(data).Type == unix.RTN_UNREACHABLE {
			return sign + "unreachable"
		}
		return sign + "route"
	}
	return "message"
}

func TestFabricSecondEnsureWritesNothing(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	cfg := config(t, host.Netns)
	f := up(t, cfg)
	watched := map[string]*changes{"host": watchChanges(t, host.Netns), "switch": watchChanges(t, f.SwitchNetns())}
	for _, n := range cfg.Nodes {
		watched[n.Name] = watchChanges(t, f.NodeNetns(n.Name))
	}
	ensure(t, f, cfg)
	// Another process, as after the supervisor's death.
	ensure(t, fabric.New(cfg), cfg)
	for where, c := range watched {
		if got := c.all(t); len(got) > 0 {
			t.Errorf("%s: the second Ensure changed something: %v", where, got)
		}
	}
}

// TestFabricGuardsFromFirstToLast is the promise that no packet finds a way
// out while cables come and go.
func TestFabricGuardsFromFirstToLast(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	cfg := config(t, host.Netns)
	f := fabric.New(cfg)

	made := watchChanges(t, host.Netns)
	ensure(t, f, cfg)
	got := strings.Join(made.all(t), " ")
	if !strings.HasPrefix(got, "+unreachable +unreachable +unreachable +unreachable +device") {
		t.Errorf("made: %s; want the four unreachable routes before all else", got)
	}
	gone := watchChanges(t, host.Netns)
	must(t, f.Remove(t.Context()))
	events := gone.all(t)
	got = strings.Join(events, " ")
	first, last := strings.Index(got, "-unreachable"), strings.LastIndex(got, "-device")
	if first < 0 || last < 0 || first < last || strings.Contains(got[first:], "route ") {
		t.Errorf("removed: %s; want the unreachable routes after all else", got)
	}
	must(t, f.Remove(t.Context()))
	if _, err := os.Stat(cfg.NetnsDir); !os.IsNotExist(err) {
		t.Errorf("directory of namespaces: %v, want it gone", err)
	}
	h := fabrictest.Handle(t, host.Netns)
	routes, err := fabric.Dump(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_V4) })
	must(t, err)
	if len(routes) != 2 {
		t.Errorf("routes left on the host: %v, want the uplink's two", routes)
	}
}

// TestFabricNothingLeavesWhileCablesBreak keeps sending to the cluster while
// its parts die and are mended.
func TestFabricNothingLeavesWhileCablesBreak(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	cfg := config(t, host.Netns)
	f := up(t, cfg)
	fabrictest.Watch(t, host.Netns, fabrictest.Uplink, cfg.All()...)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- fabrictest.In(host.Netns, func() error {
			c, err := net.ListenPacket("udp4", ":0")
			if err != nil {
				return err
			}
			defer c.Close()
			for ctx.Err() == nil {
				for _, to := range []string{"100.70.0.10", "100.70.0.99", "100.71.1.2", "100.71.99.99", "100.72.0.10", "100.73.0.3"} {
					// Most are refused, as they should be.
					_, _ = c.WriteTo([]byte("?"), &net.UDPAddr{IP: net.ParseIP(to), Port: port})
				}
			}
			return nil
		})
	}()
	h := fabrictest.Handle(t, host.Netns)
	for range 3 {
		link, err := h.LinkByName(f.HostDevice())
		must(t, err)
		must(t, h.LinkDel(link))
		ensure(t, f, cfg)
		must(t, unix.Unmount(f.SwitchNetns(), unix.MNT_DETACH))
		ensure(t, f, cfg)
	}
	stop()
	must(t, <-done)
	reaches(t, host.Netns, cfg.Nodes[1].IPs[0], netip.MustParseAddr("100.70.0.2"))
	reaches(t, f.NodeNetns("worker2"), cfg.Nodes[1].IPs[0], cfg.Nodes[2].IPs[0])
}

func TestFabricResetGivesAMachineACleanNamespace(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	cfg := config(t, host.Netns)
	f := up(t, cfg)
	// Something of the old machine still holds its namespace, with a pod's
	// device in it.
	old, err := os.Open(f.NodeNetns("worker"))
	must(t, err)
	defer old.Close()
	h := fabrictest.Handle(t, f.NodeNetns("worker"))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "pod1"
	must(t, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "pod1peer"}))

	start := time.Now()
	must(t, f.ResetNode(t.Context(), "worker"))
	t.Log("reset took", time.Since(start))
	links, err := fabric.Dump(fabrictest.Handle(t, f.NodeNetns("worker")).LinkList)
	must(t, err)
	for _, l := range links {
		if name := l.Attrs().Name; name != "lo" && name != fabric.NodeUplink {
			t.Errorf("device %s is in the fresh namespace", name)
		}
	}
	fabrictest.Serve(t, f.NodeNetns("worker"), netip.AddrPortFrom(cfg.Nodes[1].IPs[0], port).String())
	reaches(t, host.Netns, cfg.Nodes[1].IPs[0], netip.MustParseAddr("100.70.0.2"))
	reaches(t, f.NodeNetns("worker2"), cfg.Nodes[1].IPs[0], cfg.Nodes[2].IPs[0])
	reaches(t, f.NodeNetns("worker"), cfg.Nodes[2].IPs[0], cfg.Nodes[1].IPs[0])
}

func TestFabricRemoveNodeMakesItUnreachable(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	cfg := config(t, host.Netns)
	f := up(t, cfg)
	must(t, f.RemoveNode(t.Context(), "worker"))
	must(t, f.RemoveNode(t.Context(), "worker"))
	refused(t, host.Netns, cfg.Nodes[1].IPs[0], unix.EHOSTUNREACH)
	refused(t, host.Netns, cfg.Nodes[1].PodCIDRs[0].Addr().Next().Next(), unix.EHOSTUNREACH)
	if _, err := os.Stat(f.NodeNetns("worker")); !os.IsNotExist(err) {
		t.Errorf("namespace file: %v, want it gone", err)
	}
	if err := f.EnsureNode(t.Context(), "stranger"); err == nil {
		t.Error("a node that is not in the configuration was connected")
	}
}

// TestFabricMendsALeftOver is a file where a pin should be: the supervisor
// died between making it and the mount.
func TestFabricMendsALeftOver(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	cfg := config(t, host.Netns)
	must(t, os.MkdirAll(cfg.NetnsDir, 0o755))
	for _, name := range []string{"switch", "worker"} {
		must(t, os.WriteFile(filepath.Join(cfg.NetnsDir, name), nil, 0o444))
	}
	up(t, cfg)
	reaches(t, host.Netns, cfg.Nodes[1].IPs[0], netip.MustParseAddr("100.70.0.2"))
}
