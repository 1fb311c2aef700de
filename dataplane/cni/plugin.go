package cni

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"

	gocni "github.com/containerd/go-cni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config describes the pods' side of one node.
type Config struct {
	// PodCIDRs are the node's pod ranges: every pod gets an address of each,
	// in their order.
	PodCIDRs []netip.Prefix
	// NodeIPs are the node's own addresses, one of each of those families: the
	// sources of what the node sends to its pods.
	NodeIPs []netip.Addr
	// MTU of the pods' devices, in bytes. Default 1500.
	MTU int
	// StateDir holds the reservations, one small file a pod. It is made
	// if it is missing, and belongs on the machine's /run: reservations of
	// pods that died with the machine should die with it.
	StateDir string
	// HostPorts makes (added) or ends (not added) the translation of ports of
	// the node to a pod's. Without it pods that ask for host ports are
	// refused. It may be called for several pods at once, and is not called
	// for pods found at New: see Plugin.HostPorts.
	HostPorts func(ports []HostPort, added bool) error
	// Connected, if not nil, is told the name of the node's device of each new
	// pod before the node has a route to the pod. It may be called for several
	// pods at once.
	Connected func(device string) error
	// Admit is asked before a pod gets its cable, and returns when the pod may
	// send and receive; an error refuses the pod, and the kubelet tries again.
	// Dismiss hears that addresses are nobody's again. Both may be nil, and
	// may be called for several pods at once.
	Admit   func(ctx context.Context, pod Pod) error
	Dismiss func(addrs []netip.Addr)
}

// HostPort is a port of the node that leads to a pod.
type HostPort struct {
	// Protocol is "tcp", "udp" or "sctp".
	Protocol string `json:"protocol"`
	// HostIP limits the port to one of the node's addresses; the unspecified
	// address means all of its family, which is PodIP's.
	HostIP netip.Addr `json:"hostIP"`
	// Port is the node's port.
	Port uint16 `json:"port"`
	// PodIP and PodPort are where it leads.
	PodIP   netip.Addr `json:"podIP"`
	PodPort uint16     `json:"podPort"`
}

// Plugin is the node's pod network.
type Plugin struct {
	cfg  Config
	node *netlink.Handle

	// mu guards ipam.
	mu   sync.Mutex
	ipam *ipam
}

var _ gocni.CNI = (*Plugin)(nil)

// podDevice is the name of the device in every pod.
const podDevice = "eth0"

// New reads the reservations of an earlier process, drops those whose pod is
// gone, and starts nothing. The calling process must be in the node's network
// namespace. Close releases the Plugin.
func New(cfg Config) (*Plugin, error) {
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if err := checkCapabilityAccess(); err != nil {
		return nil, err
	}
	node, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	ipam, err := openIPAM(cfg.StateDir, cfg.PodCIDRs)
	if err != nil {
		node.Close()
		return nil, err
	}
	p := &Plugin{cfg: cfg, node: node, ipam: ipam}
	for _, cidr := range cfg.PodCIDRs {
		if !p.nodeIP(cidr.Addr()).IsValid() {
			node.Close()
			return nil, fmt.Errorf("pod range %s: the node has no address of its family", cidr)
		}
	}
	if err := p.dropDead(); err != nil {
		node.Close()
		return nil, err
	}
	return p, nil
}

// Close releases the Plugin's socket. Pods stay attached.
func (p *Plugin) Close() { p.node.Close() }

// dropDead gives back the addresses of pods whose device went while nobody
// was here to see it: the pod's namespace has died.
func (p *Plugin) dropDead() error {
	for _, r := range p.ipam.all() {
		link, err := p.node.LinkByName(deviceOf(r.ID))
		if err == nil && link != nil {
			continue
		}
		if !errors.As(err, new(netlink.LinkNotFoundError)) {
			return fmt.Errorf("find device of sandbox %s: %w", r.ID, err)
		}
		if err := p.ipam.release(r.ID); err != nil {
			return err
		}
	}
	return nil
}

// HostPorts returns the host ports of all attached pods.
func (p *Plugin) HostPorts() []HostPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ports []HostPort
	for _, r := range p.ipam.all() {
		ports = append(ports, r.HostPorts...)
	}
	return ports
}

// Setup attaches the pod of sandbox id, whose namespace is the file path.
func (p *Plugin) Setup(ctx context.Context, id, path string, opts ...gocni.NamespaceOpts) (*gocni.Result, error) {
	result, err := p.setup(ctx, id, path, opts)
	if err != nil {
		return nil, fmt.Errorf("attach sandbox %s: %w", id, err)
	}
	return result, nil
}

// SetupSerially is Setup: there is one network.
func (p *Plugin) SetupSerially(ctx context.Context, id, path string, opts ...gocni.NamespaceOpts) (*gocni.Result, error) {
	return p.Setup(ctx, id, path, opts...)
}

func (p *Plugin) setup(ctx context.Context, id, path string, opts []gocni.NamespaceOpts) (_ *gocni.Result, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	args, err := capabilities(opts)
	if err != nil {
		return nil, err
	}
	limits, err := bandwidth(args)
	if err != nil {
		return nil, err
	}
	mappings := portMappings(args)
	if len(mappings) > 0 && p.cfg.HostPorts == nil {
		return nil, fmt.Errorf("hostPort %d: host ports are not supported on this node", mappings[0].HostPort)
	}
	// A sandbox that was half attached before starts afresh.
	if err := p.undo(id); err != nil {
		return nil, err
	}
	r, err := p.reserve(id, mappings)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.undo(id))
		}
	}()
	if err := p.admit(ctx, opts, r.IPs); err != nil {
		return nil, err
	}
	mac, err := p.attach(r, path, limits)
	if err != nil {
		return nil, err
	}
	if len(r.HostPorts) > 0 {
		if err := p.cfg.HostPorts(r.HostPorts, true); err != nil {
			return nil, fmt.Errorf("open host ports: %w", err)
		}
	}
	eth0, lo := &gocni.Config{Mac: mac.String(), Sandbox: path}, &gocni.Config{Sandbox: path}
	result := &gocni.Result{
		Interfaces: map[string]*gocni.Config{podDevice: eth0, "lo": lo, deviceOf(id): {Mac: gatewayMAC.String()}},
		DNS:        []types.DNS{{}},
	}
	for _, addr := range r.IPs {
		way := wayOf(addr)
		eth0.IPConfigs = append(eth0.IPConfigs, &gocni.IPConfig{IP: addr.AsSlice(), Gateway: way.gateway.AsSlice()})
		lo.IPConfigs = append(lo.IPConfigs, &gocni.IPConfig{IP: way.loopback.AsSlice()})
		result.Routes = append(result.Routes, &types.Route{Dst: *prefixNet(way.everything), GW: way.gateway.AsSlice()})
	}
	return result, nil
}

// reserve takes addresses for a sandbox and notes its host ports with them.
func (p *Plugin) reserve(id string, mappings []gocni.PortMapping) (reservation, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ipam.reserve(id, func(addrs []netip.Addr) ([]HostPort, error) { return hostPorts(mappings, addrs) })
}

// Remove cuts the pod of sandbox id off and gives its addresses back. It
// succeeds when there is nothing to cut.
//
// The cable itself goes with the pod's namespace, which the caller drops next:
// the kernel takes down many of those at once, while deleting a single device
// costs 15 to 20 ms, one after the other. Until then the node has no route to
// the pod, and drops what comes from it as forged.
func (p *Plugin) Remove(ctx context.Context, id, path string, opts ...gocni.NamespaceOpts) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.remove(id); err != nil {
		return fmt.Errorf("detach sandbox %s: %w", id, err)
	}
	return nil
}

func (p *Plugin) remove(id string) error {
	r, reserved := p.reservation(id)
	if !reserved {
		return p.unplug(id)
	}
	if err := p.closeHostPorts(r); err != nil {
		return err
	}
	if err := p.cut(r); err != nil {
		return err
	}
	p.dismiss(r.IPs)
	return p.release(id)
}

// undo removes all of a sandbox that was attached in part, the cable too.
func (p *Plugin) undo(id string) error {
	if r, reserved := p.reservation(id); reserved {
		if err := p.closeHostPorts(r); err != nil {
			return err
		}
		p.dismiss(r.IPs)
	}
	if err := p.unplug(id); err != nil {
		return err
	}
	return p.release(id)
}

func (p *Plugin) closeHostPorts(r reservation) error {
	if len(r.HostPorts) == 0 || p.cfg.HostPorts == nil {
		return nil
	}
	if err := p.cfg.HostPorts(r.HostPorts, false); err != nil {
		return fmt.Errorf("close host ports: %w", err)
	}
	return nil
}

func (p *Plugin) reservation(id string) (reservation, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ipam.get(id)
}

func (p *Plugin) release(id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ipam.release(id)
}

// Check says whether the pod of sandbox id is attached as Setup left it.
func (p *Plugin) Check(ctx context.Context, id, path string, opts ...gocni.NamespaceOpts) error {
	r, reserved := p.reservation(id)
	if !reserved {
		return fmt.Errorf("check sandbox %s: it has no address", id)
	}
	if err := p.check(r, path); err != nil {
		return fmt.Errorf("check sandbox %s: %w", id, err)
	}
	return nil
}

// Load does nothing: there is no configuration to load.
func (p *Plugin) Load(opts ...gocni.Opt) error { return nil }

// Status returns nil: the network is ready once New has returned.
func (p *Plugin) Status() error { return nil }

// GetConfig describes the network as a CNI configuration would.
func (p *Plugin) GetConfig() *gocni.ConfigResult {
	network := &gocni.NetworkConfList{Name: "skiff", CNIVersion: "1.0.0"}
	network.Plugins = []*gocni.NetworkConf{{Network: &types.NetConf{Name: "skiff", Type: "skiff", CNIVersion: "1.0.0"}}}
	return &gocni.ConfigResult{Prefix: "eth", PluginMaxConfNum: 1, Networks: []*gocni.ConfNetwork{{Config: network, IFName: podDevice}}}
}

// deviceOf is the name of the node's end of a sandbox's cable. It derives
// from the sandbox alone, so that Remove needs no memory.
func deviceOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "pod" + hex.EncodeToString(sum[:6])
}

// gone says that a file, device or route is not there any more.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) ||
		errors.As(err, new(netlink.LinkNotFoundError))
}
