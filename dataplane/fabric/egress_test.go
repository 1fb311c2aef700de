package fabric_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

const forwarding = "net/ipv4/ip_forward"

// outsideWorld has a server beyond the host, and nothing of the cluster's may
// be seen on the way there.
func outsideWorld(t *testing.T) (fabrictest.Host, fabric.Config, *fabric.Fabric) {
	t.Helper()
	host := fabrictest.NewHost(t)
	fabrictest.Serve(t, host.Outside, netip.AddrPortFrom(fabrictest.OutsideAddr, port).String())
	cfg := config(t, host.Netns)
	fabrictest.Watch(t, host.Netns, fabrictest.Uplink, cfg.All()...)
	return host, cfg, up(t, cfg)
}

func TestFabricEgressIsRefusedByDefault(t *testing.T) {
	fabrictest.Root(t)
	_, cfg, f := outsideWorld(t)
	refused(t, f.NodeNetns("worker"), fabrictest.OutsideAddr, unix.ENETUNREACH)
	// Datagrams as well: a resolver must not wait for a timeout.
	_, took, err := fabrictest.Ask(f.NodeNetns(cfg.Nodes[0].Name), "udp4", netip.AddrPortFrom(fabrictest.OutsideAddr, port).String(), 5*time.Second)
	if !errors.Is(err, unix.ENETUNREACH) || took > atOnce {
		t.Errorf("udp: %v after %s, want %v at once", err, took, unix.ENETUNREACH)
	}
	if f.EgressHint() == "" {
		t.Error("no hint how to get beyond the host")
	}
}

func TestFabricEgressIsMasqueradedIfTheHostForwards(t *testing.T) {
	fabrictest.Root(t)
	host, cfg, f := outsideWorld(t)
	fabrictest.Sysctl(t, host.Netns, forwarding, "1")
	must(t, f.EnsureSwitch(t.Context()))
	reaches(t, f.NodeNetns("worker"), fabrictest.OutsideAddr, fabrictest.HostAddr)
	if hint := f.EgressHint(); hint != "" {
		t.Errorf("hint %q, want none", hint)
	}
	// Inside the cluster nobody's address is changed.
	reaches(t, f.NodeNetns("worker"), cfg.Nodes[0].IPs[0], cfg.Nodes[1].IPs[0])
	reaches(t, host.Netns, cfg.Nodes[0].IPs[0], netip.MustParseAddr("100.70.0.2"))
}

func TestFabricOutsidersDoNotGetIn(t *testing.T) {
	fabrictest.Root(t)
	host, cfg, f := outsideWorld(t)
	fabrictest.Sysctl(t, host.Netns, forwarding, "1")
	h := fabrictest.Handle(t, host.Outside)
	inward, err := h.LinkByName("inward")
	must(t, err)
	must(t, h.RouteAdd(&netlink.Route{Dst: netlink.NewIPNet(cfg.Nodes[0].IPs[0].AsSlice()), LinkIndex: inward.Attrs().Index, Gw: fabrictest.HostAddr.AsSlice()}))
	for _, ensured := range []string{"closed", "open"} {
		_, _, err := fabrictest.Ask(host.Outside, "tcp", netip.AddrPortFrom(cfg.Nodes[0].IPs[0], port).String(), 300*time.Millisecond)
		if err == nil {
			t.Errorf("with egress %s, a neighbour of the host reached a node", ensured)
		}
		must(t, f.EnsureEgress())
	}
}

// TestFabricEgressStaysShutBehindOurBack is a host that forwards from some
// moment on, while nobody runs Run: nothing may leave unmasqueraded. Watch
// sees to that.
func TestFabricEgressStaysShutBehindOurBack(t *testing.T) {
	fabrictest.Root(t)
	host, _, f := outsideWorld(t)
	fabrictest.Sysctl(t, host.Netns, forwarding, "1")
	refused(t, f.NodeNetns("worker"), fabrictest.OutsideAddr, unix.ENETUNREACH)
}

func TestFabricRunFollowsTheHostsForwarding(t *testing.T) {
	fabrictest.Root(t)
	host, cfg, f := outsideWorld(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	worker := f.NodeNetns(cfg.Nodes[1].Name)
	outside := netip.AddrPortFrom(fabrictest.OutsideAddr, port).String()
	eventually := func(what string, ok func(error) bool) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if _, _, err = fabrictest.Ask(worker, "tcp", outside, time.Second); ok(err) {
				return
			}
		}
		t.Errorf("%s: still %v", what, err)
	}
	fabrictest.Sysctl(t, host.Netns, forwarding, "1")
	eventually("forwarding on", func(err error) bool { return err == nil })
	fabrictest.Sysctl(t, host.Netns, forwarding, "0")
	eventually("forwarding off", func(err error) bool { return errors.Is(err, unix.ENETUNREACH) })
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}
