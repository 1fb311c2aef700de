package cni_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocni "github.com/containerd/go-cni"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/cni"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

const (
	// port is where pods, nodes and the host answer in tests.
	port = 8080
	// atOnce is far below a retransmission (1 s), and far above what a
	// refusal takes.
	atOnce = 500 * time.Millisecond
)

// network is a whole cluster's: three nodes, two pods on each.
type network struct {
	cfg    fabric.Config
	fabric *fabric.Fabric
	nodes  []*node
}

type node struct {
	fabric.Node
	netns, state string
	plugin       *cni.Plugin
	pods         []pod
}

type pod struct {
	id, netns string
	ip        netip.Addr
	ips       []netip.Addr
}

// Ranges of the tests' clusters.
var (
	onlyIPv4 = ranges("100.80.0.0/24", "100.81.0.0/16", "100.82.0.0/16", "100.83.0.0/24")
	onlyIPv6 = ranges("fd00:f:80::/64", "fd00:f:81::/56", "fd00:f:82::/112", "fd00:f:83::/112")
	dual     = ranges("100.80.0.0/24,fd00:f:80::/64", "100.81.0.0/16,fd00:f:81::/56", "100.82.0.0/16,fd00:f:82::/112", "100.83.0.0/24,fd00:f:83::/112")
)

func ranges(node, pod, service, balancer string) fabric.Ranges {
	parse := func(text string) (all []netip.Prefix) {
		for p := range strings.SplitSeq(text, ",") {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	return fabric.Ranges{NodeSubnets: parse(node), PodSubnets: parse(pod), ServiceSubnets: parse(service), LoadBalancerSubnets: parse(balancer)}
}

func newNetwork(t testing.TB, hostNetns string) *network { return networkOf(t, hostNetns, onlyIPv4) }

func networkOf(t testing.TB, hostNetns string, ranges fabric.Ranges) *network {
	t.Helper()
	n := &network{cfg: fabric.Config{
		Cluster: "cnitest", NetnsDir: filepath.Join(t.TempDir(), "netns"), HostNetns: hostNetns, Ranges: ranges,
	}}
	for i, name := range []string{"control-plane", "worker", "worker2"} {
		addrs, pods, err := ranges.Node(i)
		must(t, err)
		n.cfg.Nodes = append(n.cfg.Nodes, fabric.Node{Name: name, IPs: addrs, PodCIDRs: pods})
	}
	n.fabric = fabric.New(n.cfg)
	t.Cleanup(func() { must(t, n.fabric.Remove(context.WithoutCancel(t.Context()))) })
	must(t, n.fabric.EnsureSwitch(t.Context()))
	for _, c := range n.cfg.Nodes {
		must(t, n.fabric.EnsureNode(t.Context(), c.Name))
		node := &node{Node: c, netns: n.fabric.NodeNetns(c.Name), state: t.TempDir()}
		node.plugin = node.open(t, nil)
		for _, ip := range c.IPs {
			fabrictest.Serve(t, node.netns, netip.AddrPortFrom(ip, port).String())
		}
		n.nodes = append(n.nodes, node)
	}
	return n
}

// open starts the plugin, as a node process does.
func (n *node) open(t testing.TB, hostPorts func([]cni.HostPort, bool) error) *cni.Plugin {
	t.Helper()
	var p *cni.Plugin
	must(t, fabric.Do(n.netns, func() (err error) {
		p, err = cni.New(cni.Config{PodCIDRs: n.PodCIDRs, NodeIPs: n.IPs, StateDir: n.state, HostPorts: hostPorts})
		return err
	}))
	t.Cleanup(p.Close)
	return p
}

// addPod attaches a pod that answers.
func (n *node) addPod(t testing.TB, opts ...gocni.NamespaceOpts) pod {
	t.Helper()
	p := n.newPod(t)
	result, err := n.plugin.Setup(t.Context(), p.id, p.netns, opts...)
	must(t, err)
	for _, c := range result.Interfaces["eth0"].IPConfigs {
		ip, _ := netip.AddrFromSlice(c.IP)
		p.ips = append(p.ips, ip)
		fabrictest.Serve(t, p.netns, netip.AddrPortFrom(ip, port).String())
	}
	p.ip = p.ips[0]
	n.pods = append(n.pods, p)
	return p
}

// newPod makes a pod's namespace.
func (n *node) newPod(t testing.TB) pod {
	p := pod{netns: filepath.Join(t.TempDir(), "pod")}
	p.id = fmt.Sprintf("%s of %s", p.netns, n.Name)
	fabrictest.NewNetns(t, p.netns)
	return p
}

// reaches checks that from gets an answer from to and is seen as want.
func reaches(t testing.TB, from string, to, want netip.Addr) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		// Below the second after which a lost SYN is sent again.
		seen, _, err := fabrictest.Ask(from, network, netip.AddrPortFrom(to, port).String(), 900*time.Millisecond)
		if err != nil || seen != want {
			t.Errorf("%s from %s to %s: seen as %s, %v; want %s", network, from, to, seen, err, want)
		}
	}
}

// refused checks that a connection from to ends at once with want.
func refused(t testing.TB, from string, to netip.Addr, want error) {
	t.Helper()
	_, took, err := fabrictest.Ask(from, "tcp", netip.AddrPortFrom(to, port).String(), 5*time.Second)
	if !errors.Is(err, want) || took > atOnce {
		t.Errorf("from %s to %s: %v after %s; want %v at once", from, to, err, took, want)
	}
}

func TestPodsReachEverybody(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	everybody(t, host.Netns)
}

// TestPodsReachEverybodyOnThisHost is the same in the machine's own network
// namespace, next to its real uplink.
func TestPodsReachEverybodyOnThisHost(t *testing.T) {
	fabrictest.Root(t)
	taken, err := fabric.HostInUse("")
	must(t, err)
	if err := fabric.Conflicts(fabric.Ranges{NodeSubnets: []netip.Prefix{netip.MustParsePrefix("100.80.0.0/14")}}, taken); err != nil {
		t.Skip("the test's ranges are in use here: ", err)
	}
	everybody(t, fabrictest.Here)
}

func everybody(t *testing.T, hostNetns string) {
	for _, uplink := range fabrictest.Uplinks(t, hostNetns) {
		fabrictest.Watch(t, hostNetns, uplink, netip.MustParsePrefix("100.80.0.0/14"))
	}
	n := newNetwork(t, hostNetns)
	hostIP := netip.MustParseAddr("100.80.0.2")
	fabrictest.Serve(t, hostNetns, netip.AddrPortFrom(hostIP, port).String())
	type place struct {
		netns string
		ip    netip.Addr
	}
	places := []place{{hostNetns, hostIP}}
	for _, node := range n.nodes {
		fabrictest.Quiet(t, node.netns, fabric.NodeUplink)
		places = append(places, place{node.netns, node.IPs[0]})
		for range 2 {
			p := node.addPod(t)
			// The very first packets count: readiness probes send them.
			reaches(t, node.netns, p.ip, node.IPs[0])
			places = append(places, place{p.netns, p.ip})
		}
	}
	for _, from := range places {
		for _, to := range places {
			reaches(t, from.netns, to.ip, from.ip)
		}
	}
	nobody := map[string]error{
		"100.80.0.99":  unix.EHOSTUNREACH, // node
		"100.81.0.99":  unix.EHOSTUNREACH, // pod of a node
		"100.81.1.99":  unix.EHOSTUNREACH,
		"100.81.0.1":   unix.EHOSTUNREACH, // never given to a pod
		"100.81.99.1":  unix.EHOSTUNREACH, // pod of no node
		"100.83.0.9":   unix.ECONNREFUSED, // load balancer
		"100.82.33.44": unix.ECONNREFUSED, // service
	}
	for addr, want := range nobody {
		refused(t, n.fabric.SwitchNetns(), netip.MustParseAddr(addr), want)
		for _, from := range places {
			refused(t, from.netns, netip.MustParseAddr(addr), want)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
