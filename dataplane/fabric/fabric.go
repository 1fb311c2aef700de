package fabric

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
)

const (
	// RouteProtocol is the protocol number on every route that skiff makes
	// (rtnetlink's rtm_protocol).
	RouteProtocol = 98
	// SwitchUplink is the name of the switch's device that leads to the host:
	// where packets from the host enter and leave the cluster.
	SwitchUplink = "host"
	// NodeUplink is the name of a node's device that leads to the switch.
	NodeUplink = "eth0"

	// hostDevicePrefix starts the name of every cluster's device in the
	// host's namespace.
	hostDevicePrefix = "skf"
	// unreachableMetric makes the guard routes the last choice of their
	// prefix.
	unreachableMetric = 1<<31 - 1
	defaultMTU        = 1500
)

// Config describes one cluster's network.
type Config struct {
	// Cluster is the cluster's name; names of devices and tables on the host
	// derive from it.
	Cluster string
	// NetnsDir is where the network namespaces are pinned: the files "switch"
	// and one per node. It is made if it is missing.
	NetnsDir string
	// HostNetns is the path of the namespace that plays the host. Default:
	// the caller's.
	HostNetns string
	// Ranges of the cluster. The first address of each node range is the
	// switch, the second the host's end of its cable.
	Ranges
	// Nodes are all nodes of the cluster.
	Nodes []Node
	// MTU of all devices, in bytes. Default 1500.
	MTU int
	// ForeignPods says that the nodes' pods are not dataplane/cni's: their
	// devices start as the kernel has it, and their IPv6 sources are not
	// checked in the node.
	ForeignPods bool
}

// Node is one machine on the fabric.
type Node struct {
	// Name is the node's name, and that of its namespace's file.
	Name string
	// IPs are the node's own addresses, one in each of Config.NodeSubnets.
	IPs []netip.Addr
	// PodCIDRs are the addresses of its pods, a part of each of
	// Config.PodSubnets.
	PodCIDRs []netip.Prefix
}

// Fabric is one cluster's network. Its methods may be called from several
// goroutines as long as they concern different nodes; EnsureSwitch comes
// before any EnsureNode.
type Fabric struct {
	cfg Config
	// switchIPs and hostIPs are the two ends of the cable to the host, one in
	// each of the node ranges.
	switchIPs, hostIPs []netip.Addr
}

// ErrUnknownNode says that a node is not in Config.Nodes.
var ErrUnknownNode = errors.New("no such node in the cluster's network")

// New returns the fabric of cfg and starts nothing.
func New(cfg Config) *Fabric {
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.HostNetns == "" {
		// Not /proc/self: that is the first thread's, which may be on an
		// errand elsewhere (see Do).
		cfg.HostNetns = currentNetns
	}
	f := &Fabric{cfg: cfg}
	for _, subnet := range cfg.NodeSubnets {
		f.switchIPs = append(f.switchIPs, subnet.Masked().Addr().Next())
		f.hostIPs = append(f.hostIPs, subnet.Masked().Addr().Next().Next())
	}
	return f
}

// SwitchNetns is the path of the switch's namespace.
func (f *Fabric) SwitchNetns() string { return filepath.Join(f.cfg.NetnsDir, "switch") }

// NodeNetns is the path of the namespace of the node called name.
func (f *Fabric) NodeNetns(name string) string { return filepath.Join(f.cfg.NetnsDir, name) }

// HostDevice is the name of the cluster's device in the host's namespace.
func (f *Fabric) HostDevice() string {
	sum := sha256.Sum256([]byte(f.cfg.Cluster))
	return hostDevicePrefix + hex.EncodeToString(sum[:5])
}

// families are those of the cluster.
func (f *Fabric) families() []Family {
	var all []Family
	for _, subnet := range f.cfg.NodeSubnets {
		all = append(all, FamilyOf(subnet.Addr()))
	}
	return all
}

func (f *Fabric) has(family Family) bool { return slices.Contains(f.families(), family) }

func (f *Fabric) node(name string) (Node, error) {
	i := slices.IndexFunc(f.cfg.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, fmt.Errorf("node %s: %w", name, ErrUnknownNode)
	}
	return f.cfg.Nodes[i], nil
}

// switchPort is the name of the switch's device that leads to a node. It
// derives from the end of the node's first address alone: node names may be
// longer than a device's name.
func switchPort(n Node) string {
	ip := n.IPs[0].AsSlice()
	return "node-" + hex.EncodeToString(ip[len(ip)-4:])
}
