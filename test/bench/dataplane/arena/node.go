package arena

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/skiff-k8s/skiff/test/bench/cgroup"
)

// Pods is the range of every pod.
var Pods = netip.MustParsePrefix("10.244.0.0/16")

// Services is the range of every Service; no route of the arena leads there.
var Services = netip.MustParsePrefix("10.96.0.0/16")

// API is the address of the API server, on the switch.
var API = netip.MustParseAddr("192.0.2.10")

// gateway is the switch's own address; host routes lead to it.
var (
	gateway  = netip.MustParseAddr("10.200.0.1")
	anywhere = netip.MustParsePrefix("0.0.0.0/0")
)

// Arena is the switch.
type Arena struct {
	fabric *namespace
	// loadgen is the program of that name.
	loadgen string
}

// New makes the switch of the namespace that Enclose made.
func New(loadgen string) (*Arena, error) {
	fabric, err := ownNamespace()
	if err != nil {
		return nil, err
	}
	a := &Arena{fabric: fabric, loadgen: loadgen}
	return a, errors.Join(fabric.address("lo", gateway), fabric.address("lo", API))
}

// Node is a node with one pod.
type Node struct {
	Name   string
	IP     netip.Addr
	PodIP  netip.Addr
	arena  *Arena
	device string
	node   *namespace
	pod    *namespace
}

// AddNode makes the node with a number from 1 to 250.
func (a *Arena) AddNode(name string, number byte) (n *Node, err error) {
	inside := netip.AddrFrom4([4]byte{10, 244, number, 1})
	n = &Node{
		Name: name, IP: netip.AddrFrom4([4]byte{10, 200, 0, number + 1}), PodIP: inside.Next(),
		arena: a, device: fmt.Sprintf("node%d", number),
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("node %s: %w", name, err), n.Close())
		}
	}()
	if n.node, err = newNamespace(); err != nil {
		return n, err
	}
	if n.pod, err = newNamespace(); err != nil {
		return n, err
	}
	for _, part := range []string{"agent", "pod"} {
		if err := cgroup.Make(n.Cgroup() + "/" + part); err != nil {
			return n, err
		}
	}
	for _, step := range []func() error{
		func() error { return a.fabric.cable(n.device, n.node) },
		func() error { return n.node.address("eth0", n.IP) },
		func() error { return n.node.route(host(gateway), netip.Addr{}, "eth0") },
		func() error { return n.node.route(anywhere, gateway, "eth0") },
		func() error { return n.node.refuse(Services) },
		func() error { return a.fabric.route(host(n.IP), netip.Addr{}, n.device) },
		func() error { return a.fabric.route(host(n.PodIP), n.IP, n.device) },

		func() error { return n.node.cable("pod", n.pod) },
		func() error { return n.node.address("lo", inside) },
		func() error { return n.node.route(host(n.PodIP), netip.Addr{}, "pod") },
		func() error { return n.pod.address("eth0", n.PodIP) },
		func() error { return n.pod.route(host(inside), netip.Addr{}, "eth0") },
		func() error { return n.pod.route(anywhere, inside, "eth0") },
	} {
		if err := step(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// AddAddresses gives the pod many more addresses, all of one prefix.
func (n *Node) AddAddresses(all netip.Prefix, each []netip.Addr) error {
	errs := []error{
		n.arena.fabric.route(all, n.IP, n.device),
		n.node.route(all, n.PodIP, "pod"),
	}
	for _, a := range each {
		errs = append(errs, n.pod.address("lo", a))
	}
	return errors.Join(errs...)
}

// Cgroup is the node's; its agent and pod have directories in it.
func (n *Node) Cgroup() string { return Root + "/" + n.Name }

// Close lets go of the namespaces, which ends them once no process is inside.
func (n *Node) Close() error {
	errs := []error{cgroup.Remove(n.Cgroup())}
	if l, err := n.arena.fabric.link.LinkByName(n.device); err == nil {
		errs = append(errs, n.arena.fabric.link.LinkDel(l))
	}
	for _, ns := range []*namespace{n.node, n.pod} {
		if ns != nil {
			errs = append(errs, ns.close())
		}
	}
	return errors.Join(errs...)
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
