package fabric_test

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

// config is a cluster of three nodes in ranges that nobody else has.
func config(t testing.TB, hostNetns string) fabric.Config {
	t.Helper()
	ranges := fabric.Ranges{
		NodeSubnet:         netip.MustParsePrefix("100.70.0.0/24"),
		PodSubnet:          netip.MustParsePrefix("100.71.0.0/16"),
		ServiceSubnet:      netip.MustParsePrefix("100.72.0.0/16"),
		LoadBalancerSubnet: netip.MustParsePrefix("100.73.0.0/24"),
	}
	cfg := fabric.Config{
		Cluster: "fabrictest", NetnsDir: filepath.Join(t.TempDir(), "netns"), HostNetns: hostNetns,
		NodeSubnet: ranges.NodeSubnet, PodSubnet: ranges.PodSubnet,
		ServiceSubnet: ranges.ServiceSubnet, LoadBalancerSubnet: ranges.LoadBalancerSubnet,
	}
	for i, name := range []string{"control-plane", "worker", "worker2"} {
		addr, pods, err := ranges.Node(i)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Nodes = append(cfg.Nodes, fabric.Node{Name: name, IP: addr, PodCIDR: pods})
	}
	return cfg
}

// up makes the whole fabric of cfg, which goes with the test.
func up(t testing.TB, cfg fabric.Config) *fabric.Fabric {
	t.Helper()
	f := fabric.New(cfg)
	t.Cleanup(func() {
		if err := f.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	start := time.Now()
	if err := f.EnsureSwitch(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log("switch", time.Since(start))
	for _, n := range cfg.Nodes {
		start := time.Now()
		if err := f.EnsureNode(t.Context(), n.Name); err != nil {
			t.Fatal(err)
		}
		t.Log("node", time.Since(start))
	}
	return f
}

func TestSmoke(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	cfg := config(t, host.Netns)
	f := up(t, cfg)
	addr := cfg.Nodes[1].IP.String() + ":80"
	fabrictest.Serve(t, f.NodeNetns("worker"), addr)
	t.Log(fabrictest.Ask(host.Netns, "tcp4", addr, time.Second))
	t.Log(fabrictest.Ask(f.NodeNetns("worker2"), "tcp4", addr, time.Second))
	t.Log(fabrictest.Ask(f.NodeNetns("worker2"), "udp4", addr, time.Second))
	t.Log(fabrictest.Ask(host.Netns, "tcp4", "100.70.0.99:80", 3*time.Second))
	t.Log(fabrictest.Ask(host.Netns, "udp4", "100.70.0.99:80", 3*time.Second))
	t.Log(fabrictest.Ask(host.Netns, "tcp4", "100.72.0.99:80", 3*time.Second))
	t.Log(fabrictest.Ask(f.NodeNetns("worker2"), "tcp4", "192.0.2.1:80", 3*time.Second))
	t.Log(fabrictest.Ask(f.NodeNetns("worker2"), "udp4", "192.0.2.1:80", 3*time.Second))
	t.Log(fabrictest.Ask(f.NodeNetns("worker2"), "tcp4", "192.0.2.2:80", 3*time.Second))
}
