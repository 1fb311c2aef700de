package fabric_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

const (
	// port is where nodes answer in tests.
	port = 8080
	// atOnce is far below any timeout or retransmission (1 s), and far above
	// what a refusal takes (under 1 ms).
	atOnce = 500 * time.Millisecond
)

// config is a cluster of three nodes in ranges that nobody else has.
func config(t testing.TB, hostNetns string) fabric.Config {
	t.Helper()
	return configIn(t, hostNetns, "fabrictest", fabric.Ranges{
		NodeSubnets:         prefix("100.70.0.0/24"),
		PodSubnets:          prefix("100.71.0.0/16"),
		ServiceSubnets:      prefix("100.72.0.0/16"),
		LoadBalancerSubnets: prefix("100.73.0.0/24"),
	})
}

func configIn(t testing.TB, hostNetns, cluster string, ranges fabric.Ranges) fabric.Config {
	t.Helper()
	cfg := fabric.Config{
		Cluster: cluster, NetnsDir: filepath.Join(t.TempDir(), "netns"), HostNetns: hostNetns,
		Ranges: ranges,
	}
	for i, name := range []string{"control-plane", "worker", "worker2"} {
		addrs, pods, err := ranges.Node(i)
		must(t, err)
		cfg.Nodes = append(cfg.Nodes, fabric.Node{Name: name, IPs: addrs, PodCIDRs: pods})
	}
	return cfg
}

// up makes the whole fabric of cfg, with a server on every node, until the
// test ends.
func up(t testing.TB, cfg fabric.Config) *fabric.Fabric {
	t.Helper()
	f := fabric.New(cfg)
	t.Cleanup(func() { must(t, f.Remove(context.WithoutCancel(t.Context()))) })
	ensure(t, f, cfg)
	for _, n := range cfg.Nodes {
		for _, ip := range n.IPs {
			fabrictest.Serve(t, f.NodeNetns(n.Name), netip.AddrPortFrom(ip, port).String())
		}
	}
	return f
}

func ensure(t testing.TB, f *fabric.Fabric, cfg fabric.Config) {
	t.Helper()
	must(t, f.EnsureSwitch(t.Context()))
	for _, n := range cfg.Nodes {
		must(t, f.EnsureNode(t.Context(), n.Name))
	}
}

// reaches checks that from gets an answer from to and is seen as want.
func reaches(t testing.TB, from string, to, want netip.Addr) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		seen, _, err := fabrictest.Ask(from, network, netip.AddrPortFrom(to, port).String(), 2*time.Second)
		if err != nil || seen != want {
			t.Errorf("%s from %s to %s: seen as %s, %v; want %s", network, filepath.Base(from), to, seen, err, want)
		}
	}
}

// refused checks that a connection from to ends at once with want.
func refused(t testing.TB, from string, to netip.Addr, want error) {
	t.Helper()
	_, took, err := fabrictest.Ask(from, "tcp", netip.AddrPortFrom(to, port).String(), 5*time.Second)
	if !errors.Is(err, want) || took > atOnce {
		t.Errorf("from %s to %s: %v after %s; want %v at once", filepath.Base(from), to, err, took, want)
	}
}

func TestFabricConnectsHostAndNodes(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	cfg := config(t, host.Netns)
	fabrictest.Watch(t, host.Netns, fabrictest.Uplink, cfg.All()...)
	f := up(t, cfg)
	connects(t, f, cfg, host.Netns)

	// The host answers its nodes, at any of its addresses.
	hostIP := netip.MustParseAddr("100.70.0.2")
	for _, addr := range []netip.Addr{hostIP, fabrictest.HostAddr} {
		fabrictest.Serve(t, host.Netns, netip.AddrPortFrom(addr, port).String())
		reaches(t, f.NodeNetns("worker"), addr, cfg.Nodes[1].IPs[0])
	}
}

// TestFabricOnThisHost is the same in the machine's own network namespace,
// next to its real uplink.
func TestFabricOnThisHost(t *testing.T) {
	fabrictest.Root(t)
	cfg := config(t, "")
	if err := fabric.Conflicts(cfg.Ranges, inUse(t, "")); err != nil {
		t.Skip("the test's ranges are in use here: ", err)
	}
	for _, device := range fabrictest.Uplinks(t, fabrictest.Here) {
		fabrictest.Watch(t, fabrictest.Here, device, cfg.All()...)
	}
	connects(t, up(t, cfg), cfg, fabrictest.Here)
}

// connects checks the addresses that somebody has, and those nobody has.
func connects(t *testing.T, f *fabric.Fabric, cfg fabric.Config, hostNetns string) {
	t.Helper()
	fabrictest.Quiet(t, hostNetns, f.HostDevice())
	hostIP := netip.MustParseAddr("100.70.0.2")
	for i, to := range cfg.Nodes {
		reaches(t, hostNetns, to.IPs[0], hostIP)
		from := cfg.Nodes[(i+1)%len(cfg.Nodes)]
		reaches(t, f.NodeNetns(from.Name), to.IPs[0], from.IPs[0])
	}
	nobody := map[string]error{
		"100.70.0.99":   unix.EHOSTUNREACH, // node
		"100.71.1.99":   unix.EHOSTUNREACH, // pod of a node
		"100.71.99.1":   unix.EHOSTUNREACH, // pod of no node
		"100.73.0.9":    unix.ECONNREFUSED, // load balancer
		"100.73.0.255":  unix.ECONNREFUSED, // load balancer
		"100.72.33.44":  unix.ECONNREFUSED, // service
		"100.72.0.1":    unix.ECONNREFUSED, // service
		"100.70.0.1":    unix.ECONNREFUSED, // the switch itself
		"100.70.0.255":  unix.EHOSTUNREACH,
		"100.71.0.0":    unix.EHOSTUNREACH,
		"100.71.255.42": unix.EHOSTUNREACH,
	}
	for addr, want := range nobody {
		to := netip.MustParseAddr(addr)
		for _, from := range []string{hostNetns, f.SwitchNetns(), f.NodeNetns("control-plane"), f.NodeNetns("worker")} {
			refused(t, from, to, want)
		}
	}
}

func TestFabricTwoClustersSideBySide(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	cfg := config(t, host.Netns)
	first := up(t, cfg)
	other := configIn(t, host.Netns, "fabrictest-2", fabric.Ranges{
		NodeSubnets:         prefix("100.74.0.0/24"),
		PodSubnets:          prefix("100.74.64.0/18"),
		ServiceSubnets:      prefix("100.74.128.0/18"),
		LoadBalancerSubnets: prefix("100.74.1.0/24"),
	})
	second := up(t, other)
	reaches(t, host.Netns, cfg.Nodes[2].IPs[0], netip.MustParseAddr("100.70.0.2"))
	reaches(t, host.Netns, other.Nodes[2].IPs[0], netip.MustParseAddr("100.74.0.2"))
	// A host that does not forward keeps them apart.
	refused(t, first.NodeNetns("worker"), other.Nodes[0].IPs[0], unix.ENETUNREACH)
	must(t, second.Remove(t.Context()))
	reaches(t, host.Netns, cfg.Nodes[2].IPs[0], netip.MustParseAddr("100.70.0.2"))
}

func TestFabricDoRunsInTheNamespace(t *testing.T) {
	fabrictest.Root(t)
	path := filepath.Join(t.TempDir(), "ns")
	fabrictest.NewNetns(t, path)
	want, err := os.Stat(path)
	must(t, err)
	var inside os.FileInfo
	must(t, fabric.Do(path, func() (err error) {
		inside, err = os.Stat("/proc/thread-self/ns/net")
		return err
	}))
	if !os.SameFile(want, inside) {
		t.Error("fn ran in another namespace")
	}
	sentinel := errors.New("sentinel")
	if err := fabric.Do(path, func() error { return sentinel }); !errors.Is(err, sentinel) {
		t.Errorf("got %v, want fn's error", err)
	}
	if err := fabric.Do(path+"-missing", func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want not-exist", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
