package nodenat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/lb/internal/clsact"
	"github.com/skiff-k8s/skiff/dataplane/lb/switchnat"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// Config says whose packets are translated, and by what.
type Config struct {
	// Netns is the path of the node's network namespace; empty: the caller's.
	Netns string
	// Table is the node's. Its addresses of the node itself (SetNodes) count as
	// the node.
	Table *table.Table
	// PinDir is a directory of a bpf file system for the state of flows; empty:
	// it goes with the programs.
	PinDir string
	// Uplink is the name of the device that leads out of the node.
	Uplink string
	// V4 and V6 are the node's addresses, which a pod sees that is its own
	// backend; invalid where the node has none of the family.
	V4, V6 netip.Addr
}

// NAT is the loaded programs. Its methods may be called at any time.
type NAT struct {
	objects nodeObjects
	node    *netlink.Handle
	uplink  int

	// mu guards attached, the devices that have the programs by their index.
	mu       sync.Mutex
	attached map[int]struct{}
}

// filterPriority is the place of our filters at a device: behind those for
// host ports, and where nobody else has his.
const filterPriority = 98

// filterName is what tc shows of them.
const filterName = "skiff_sctp"

// deviceKind is the kind of devices that lead to pods.
const deviceKind = "veth"

// Load loads the programs and attaches them to lo, to the uplink, and to all
// devices there are that lead to pods. Attachments of an earlier Load are
// replaced between two packets; flows go on.
func Load(cfg Config) (_ *NAT, err error) {
	n := &NAT{attached: map[int]struct{}{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("serve SCTP: %w", err), n.Close())
		}
	}()
	if n.node, err = clsact.Handle(cfg.Netns); err != nil {
		return nil, err
	}
	uplink, err := n.node.LinkByName(cfg.Uplink)
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", cfg.Uplink, err)
	}
	n.uplink = uplink.Attrs().Index
	if err := n.load(cfg, uplink); err != nil {
		return nil, err
	}
	if err := takeOwn(cfg.Netns); err != nil {
		return nil, err
	}
	if err := clsact.Attach(n.node, uplink, clsact.Filters{
		Name: filterName, Priority: filterPriority, Egress: n.objects.NodeOut, Ingress: n.objects.NodeIn,
	}); err != nil {
		return nil, err
	}
	lo, err := n.node.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find device lo: %w", err)
	}
	if err := clsact.Attach(n.node, lo, clsact.Filters{Name: filterName, Priority: filterPriority, Egress: n.objects.NodeOut}); err != nil {
		return nil, err
	}
	return n, n.attachAll()
}

func (n *NAT) load(cfg Config, uplink netlink.Link) error {
	spec, err := loadNode()
	if err != nil {
		return fmt.Errorf("read programs: %w", err)
	}
	var mac [6]byte
	copy(mac[:], uplink.Attrs().HardwareAddr)
	for name, value := range map[string]any{
		nodeVarNodeV4: address(cfg.V4), nodeVarNodeV6: address(cfg.V6),
		nodeVarNodeUplink: uint32(n.uplink), nodeVarNodeUplinkMac: mac,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return switchnat.Assign(spec, cfg.Table, cfg.PinDir, &n.objects)
}

// address is as the programs read it; zero for none.
func address(a netip.Addr) [4]uint32 {
	if !a.IsValid() {
		return [4]uint32{}
	}
	return table.RawBackend(netip.AddrPortFrom(a, 0)).Addr
}

// takeOwn lets lo take packets from the node's own address that have no route
// yet: the programs hand it such ones.
func takeOwn(netns string) error {
	write := func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/lo/accept_local", []byte("1"), 0) }
	if netns == "" {
		return write()
	}
	return fabric.Do(netns, write)
}

// attachAll attaches the programs to all devices that lead to pods and have
// them not yet.
func (n *NAT) attachAll() error {
	links, err := fabric.Dump(n.node.LinkList)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, l := range links {
		errs = append(errs, n.attach(l))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.attached, func(index int, _ struct{}) bool {
		return !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == index })
	})
	return errors.Join(errs...)
}

// Attach attaches the programs to the device called name, before the pod at
// its other end sends.
func (n *NAT) Attach(name string) error {
	l, err := n.node.LinkByName(name)
	if err == nil {
		err = n.attach(l)
	}
	if err != nil {
		return fmt.Errorf("serve SCTP at device %s: %w", name, err)
	}
	return nil
}

// Follow attaches the programs to devices that lead to pods as they come,
// until ctx ends: other networks than our own do not tell.
func (n *NAT) Follow(ctx context.Context) error {
	const what = "follow devices"
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fabric.Follow(ctx, what, events, n.attachAll)
}

func (n *NAT) attach(l netlink.Link) error {
	index := l.Attrs().Index
	if l.Type() != deviceKind || index == n.uplink {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.attached[index]; ok {
		return nil
	}
	err := clsact.Attach(n.node, l, clsact.Filters{
		Name: filterName, Priority: filterPriority, Egress: n.objects.PodOut, Ingress: n.objects.PodIn,
	})
	if err != nil && n.gone(index) {
		return nil
	}
	if err == nil {
		n.attached[index] = struct{}{}
	}
	return err
}

// gone says whether a device went meanwhile.
func (n *NAT) gone(index int) bool {
	_, err := n.node.LinkByIndex(index)
	return errors.As(err, &netlink.LinkNotFoundError{})
}

// Close lets go of the programs, which stay with the devices.
func (n *NAT) Close() error {
	if n.node != nil {
		n.node.Close()
	}
	return n.objects.Close()
}
