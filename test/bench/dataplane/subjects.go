package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/lb"
	"github.com/skiff-k8s/skiff/test/bench/dataplane/arena"
	"github.com/skiff-k8s/skiff/test/bench/dataplane/world"
)

// subject is one way to reach a Service.
type subject struct {
	name string
	// start starts what serves the Services on a node; nil: nobody does, and
	// clients call the endpoints themselves.
	start func(n *arena.Node) (*arena.Process, error)
	// observed starts it so that it reports when its maps change; nil: it
	// cannot.
	observed func(n *arena.Node) (*arena.Process, error)
	// forget removes what start leaves on a node; nil: nothing but what goes
	// with the node.
	forget func(n *arena.Node) error
	// changes is how many API writes are followed.
	changes int
}

// subjects are all of them, the direct way first.
func subjects(w *world.World, dir string, o options) ([]subject, error) {
	bpf := filepath.Join(dir, "bpf")
	if err := os.MkdirAll(bpf, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("bpf", bpf, "bpf", 0, "mode=0700"); err != nil {
		return nil, fmt.Errorf("mount a bpf file system: %w", err)
	}
	skiff := func(more ...string) func(*arena.Node) (*arena.Process, error) {
		return func(n *arena.Node) (*arena.Process, error) {
			root, err := lb.CgroupRoot()
			if err != nil {
				return nil, err
			}
			return n.Start(arena.Where{}, append([]string{
				filepath.Join(o.programs, "agent"), "-node", n.Name, "-ip", n.IP.String(), "-kubeconfig", w.Kubeconfig,
				"-cgroup", filepath.Join(root, n.Cgroup()), "-pins", filepath.Join(bpf, n.Name),
			}, more...)...)
		}
	}
	proxy := func(mode string) func(*arena.Node) (*arena.Process, error) {
		return func(n *arena.Node) (*arena.Process, error) { return startProxy(mode, n, w, dir, o) }
	}
	return []subject{
		{name: "direct"},
		{name: "skiff", start: skiff(), observed: skiff("-observe", world.Address(0).Addr().String()), changes: o.changes,
			forget: func(n *arena.Node) error { return os.RemoveAll(filepath.Join(bpf, n.Name)) }},
		{name: "nftables", start: proxy("nftables"), changes: o.slowChanges},
		{name: "iptables", start: proxy("iptables"), changes: o.slowChanges},
	}, nil
}

// startProxy starts kube-proxy with its default intervals.
func startProxy(mode string, n *arena.Node, w *world.World, dir string, o options) (*arena.Process, error) {
	config := filepath.Join(dir, n.Name+".yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %s}
hostnameOverride: %s
mode: %s
clusterCIDR: %s
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, w.Kubeconfig, n.Name, mode, arena.Pods), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, n.Name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return n.Start(arena.Where{OwnRun: true, Log: log}, filepath.Join(o.programs, "kube-proxy"), "--config", config)
}

// backendPort is where the server listens.
const backendPort = 8080

// backends are the addresses of the server's pod: n of a hundred.
func backends(n int) []netip.AddrPort {
	var all []netip.AddrPort
	for i := range n {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 255, byte(i + 1)}), backendPort))
	}
	return all
}
