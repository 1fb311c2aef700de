package nodenat_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/cni"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb/nodenat"
	"github.com/skiff-k8s/skiff/dataplane/lb/switchnat"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// network is a whole cluster's: a host, two nodes, pods on them.
type network struct {
	*testing.T
	cfg   fabric.Config
	host  *place
	nodes []*node
	sw    *table.Table
}

// place is somewhere that calls and answers come from.
type place struct {
	name, netns string
	addrs       []netip.Addr
}

// addr is the place's of other's family.
func (p *place) addr(other netip.Addr) netip.Addr {
	for _, a := range p.addrs {
		if a.Is4() == other.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

type node struct {
	place
	fabric.Node
	table  *table.Table
	nat    *nodenat.NAT
	plugin *cni.Plugin
}

func prefixes(four, six string) []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(four), netip.MustParsePrefix(six)}
}

var ranges = fabric.Ranges{
	NodeSubnets: prefixes("100.84.0.0/24", "fd00:f:84::/64"), PodSubnets: prefixes("100.85.0.0/16", "fd00:f:85::/56"),
	ServiceSubnets: prefixes("100.86.0.0/16", "fd00:f:86::/112"), LoadBalancerSubnets: prefixes("100.87.0.0/24", "fd00:f:87::/112"),
}

// Addresses of services, of each family.
var (
	clusterIPs  = []netip.Addr{netip.MustParseAddr("100.86.0.20"), netip.MustParseAddr("fd00:f:86::20")}
	balancerIPs = []netip.Addr{netip.MustParseAddr("100.87.0.20"), netip.MustParseAddr("fd00:f:87::20")}
	everyNode   = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
)

func newNetwork(t *testing.T) *network {
	t.Helper()
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	host.AddIPv6(t)
	n := &network{T: t, cfg: fabric.Config{
		Cluster: "nodenat", NetnsDir: filepath.Join(t.TempDir(), "netns"), HostNetns: host.Netns, Ranges: ranges,
	}}
	n.host = &place{name: "host", netns: host.Netns}
	for _, subnet := range ranges.NodeSubnets {
		n.host.addrs = append(n.host.addrs, subnet.Addr().Next().Next())
	}
	for i := range 2 {
		addrs, pods, err := ranges.Node(i)
		n.must(err)
		n.cfg.Nodes = append(n.cfg.Nodes, fabric.Node{Name: fmt.Sprint("node", i), IPs: addrs, PodCIDRs: pods})
	}
	f := fabric.New(n.cfg)
	t.Cleanup(func() { n.must(f.Remove(context.WithoutCancel(t.Context()))) })
	n.must(f.EnsureSwitch(t.Context()))
	for _, c := range n.cfg.Nodes {
		n.must(f.EnsureNode(t.Context(), c.Name))
		n.nodes = append(n.nodes, &node{Node: c, place: place{name: c.Name, netns: f.NodeNetns(c.Name), addrs: c.IPs}})
	}
	at := switchnat.Config{Netns: f.SwitchNetns(), Device: fabric.SwitchUplink, PinDir: filepath.Join(t.TempDir(), "bpf")}
	n.must(switchnat.Load(at))
	t.Cleanup(func() { n.must(switchnat.Remove(at)) })
	var err error
	n.sw, err = table.Open(at.PinDir)
	n.must(err)
	t.Cleanup(func() { n.sw.Close() })
	for _, node := range n.nodes {
		n.start(node)
	}
	n.setNodes()
	return n
}

// start gives a node what its process has.
func (n *network) start(node *node) {
	n.Helper()
	var err error
	node.table, err = table.Create("")
	n.must(err)
	n.Cleanup(func() { node.table.Close() })
	node.nat, err = nodenat.Load(nodenat.Config{
		Netns: node.netns, Table: node.table, Uplink: fabric.NodeUplink, V4: node.IPs[0], V6: node.IPs[1],
	})
	n.must(err)
	n.Cleanup(func() { n.must(node.nat.Close()) })
	state := n.TempDir()
	n.must(fabric.Do(node.netns, func() (err error) {
		node.plugin, err = cni.New(cni.Config{PodCIDRs: node.PodCIDRs, NodeIPs: node.IPs, StateDir: state, Connected: node.nat.Attach})
		return err
	}))
	n.Cleanup(node.plugin.Close)
}

// setNodes tells all tables of the nodes.
func (n *network) setNodes() {
	n.Helper()
	outside := map[netip.Addr]bool{}
	for _, node := range n.nodes {
		self := map[netip.Addr]bool{}
		for _, other := range n.nodes {
			for _, a := range other.IPs {
				self[a] = other == node
				outside[a] = false
			}
		}
		n.must(node.table.SetNodes(self))
	}
	n.must(n.sw.SetNodes(outside))
}

// pod attaches a pod.
func (n *network) pod(on *node, name string) *place {
	n.Helper()
	p := &place{name: name, netns: filepath.Join(n.TempDir(), "pod")}
	fabrictest.NewNetns(n, p.netns)
	result, err := on.plugin.Setup(n.Context(), p.netns, p.netns)
	n.must(err)
	for _, c := range result.Interfaces["eth0"].IPConfigs {
		a, _ := netip.AddrFromSlice(c.IP)
		p.addrs = append(p.addrs, a)
	}
	return p
}

// set gives all tables a frontend, with backends of its family.
func (n *network) set(key table.Key, change func(*table.Frontend), backends ...netip.AddrPort) {
	n.Helper()
	key.Proto = inet.SCTP
	f := table.Frontend{Key: key, Backends: backends}
	if change != nil {
		change(&f)
	}
	for _, t := range []*table.Table{n.nodes[0].table, n.nodes[1].table, n.sw} {
		_, err := t.Set(f)
		n.must(err)
	}
}

func (n *network) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}
