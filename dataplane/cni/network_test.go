package cni_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/dataplane/cni"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

// network is a whole cluster's: three nodes, two pods on each.
type network struct {
	cfg    fabric.Config
	fabric *fabric.Fabric
	nodes  []*node
}

type node struct {
	fabric.Node
	netns  string
	plugin *cni.Plugin
	pods   []pod
}

type pod struct {
	id, netns string
	ip        netip.Addr
}

// servedPort is where every pod and node answers.
const servedPort = 8080

func newNetwork(t testing.TB, hostNetns string) *network {
	t.Helper()
	ranges := fabric.Ranges{
		NodeSubnet:         netip.MustParsePrefix("100.80.0.0/24"),
		PodSubnet:          netip.MustParsePrefix("100.81.0.0/16"),
		ServiceSubnet:      netip.MustParsePrefix("100.82.0.0/16"),
		LoadBalancerSubnet: netip.MustParsePrefix("100.83.0.0/24"),
	}
	n := &network{cfg: fabric.Config{
		Cluster: "cnitest", NetnsDir: filepath.Join(t.TempDir(), "netns"), HostNetns: hostNetns,
		NodeSubnet: ranges.NodeSubnet, PodSubnet: ranges.PodSubnet,
		ServiceSubnet: ranges.ServiceSubnet, LoadBalancerSubnet: ranges.LoadBalancerSubnet,
	}}
	for i, name := range []string{"control-plane", "worker", "worker2"} {
		addr, pods, err := ranges.Node(i)
		must(t, err)
		n.cfg.Nodes = append(n.cfg.Nodes, fabric.Node{Name: name, IP: addr, PodCIDR: pods})
	}
	n.fabric = fabric.New(n.cfg)
	t.Cleanup(func() { must(t, n.fabric.Remove(context.WithoutCancel(t.Context()))) })
	must(t, n.fabric.EnsureSwitch(t.Context()))
	for _, c := range n.cfg.Nodes {
		must(t, n.fabric.EnsureNode(t.Context(), c.Name))
		n.nodes = append(n.nodes, newNode(t, c, n.fabric.NodeNetns(c.Name)))
	}
	return n
}

func newNode(t testing.TB, c fabric.Node, netns string) *node {
	n := &node{Node: c, netns: netns}
	n.plugin = newPlugin(t, netns, cni.Config{PodCIDR: c.PodCIDR, NodeIP: c.IP, StateDir: t.TempDir()})
	for range 2 {
		n.addPod(t)
	}
	fabrictest.Serve(t, netns, fmt.Sprintf("%s:%d", c.IP, servedPort))
	return n
}

// newPlugin opens the plugin in the namespace at path.
func newPlugin(t testing.TB, path string, cfg cni.Config) *cni.Plugin {
	t.Helper()
	var p *cni.Plugin
	must(t, fabrictest.In(path, func() (err error) {
		p, err = cni.New(cfg)
		return err
	}))
	t.Cleanup(p.Close)
	return p
}

func (n *node) addPod(t testing.TB) pod {
	t.Helper()
	p := pod{id: fmt.Sprintf("%s-%d", n.Name, len(n.pods)), netns: filepath.Join(t.TempDir(), "pod")}
	fabrictest.NewNetns(t, p.netns)
	start := time.Now()
	result, err := n.plugin.Setup(t.Context(), p.id, p.netns)
	must(t, err)
	t.Log("setup", time.Since(start))
	p.ip, _ = netip.AddrFromSlice(result.Interfaces["eth0"].IPConfigs[0].IP)
	fabrictest.Serve(t, p.netns, fmt.Sprintf("0.0.0.0:%d", servedPort))
	n.pods = append(n.pods, p)
	return p
}

func TestSmoke(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	n := newNetwork(t, host.Netns)
	a, b, c := n.nodes[0].pods[0], n.nodes[0].pods[1], n.nodes[1].pods[0]
	t.Log(a.ip, b.ip, c.ip)
	ask := func(from string, to netip.Addr) {
		for _, proto := range []string{"tcp4", "udp4"} {
			seen, took, err := fabrictest.Ask(from, proto, fmt.Sprintf("%s:%d", to, servedPort), 2*time.Second)
			t.Log(proto, to, "seen from", seen, took, err)
		}
	}
	ask(host.Netns, a.ip)
	ask(a.netns, b.ip)
	ask(a.netns, c.ip)
	ask(a.netns, a.ip)
	ask(a.netns, n.nodes[0].IP)
	ask(a.netns, n.nodes[1].IP)
	ask(n.nodes[0].netns, a.ip)
	ask(n.nodes[1].netns, a.ip)
	ask(a.netns, netip.MustParseAddr("100.81.0.200"))
	ask(a.netns, netip.MustParseAddr("100.81.9.200"))
	ask(host.Netns, netip.MustParseAddr("100.81.0.200"))
	ask(a.netns, netip.MustParseAddr("192.0.2.1"))
	start := time.Now()
	must(t, n.nodes[0].plugin.Remove(t.Context(), a.id, a.netns))
	t.Log("remove", time.Since(start))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
