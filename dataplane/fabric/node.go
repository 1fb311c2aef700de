package fabric

import (
	"context"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
)

// EnsureNode makes the namespace of the node called name and its cable to the
// switch.
func (f *Fabric) EnsureNode(ctx context.Context, name string) error {
	n, err := f.node(name)
	if err != nil {
		return err
	}
	if err := f.ensureNode(ctx, n); err != nil {
		return fmt.Errorf("connect node %s: %w", name, err)
	}
	return nil
}

func (f *Fabric) ensureNode(ctx context.Context, n Node) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := ensureNamespace(f.NodeNetns(n.Name), f.settings(f.cfg.ForeignPods)); err != nil {
		return err
	}
	var steps errgroup.Group
	if f.has(IPv6) {
		var rules [][]expr.Any
		if !f.cfg.ForeignPods {
			rules = append(rules, dropForged())
		}
		rules = append(rules, refuseNobody())
		steps.Go(func() error { return ensureIPv6(f.NodeNetns(n.Name), rules...) })
	}
	steps.Go(func() error { return f.connect(n) })
	return steps.Wait()
}

// connect lays a node's cable and routes.
func (f *Fabric) connect(n Node) error {
	node, err := openSpace(f.NodeNetns(n.Name))
	if err != nil {
		return err
	}
	defer node.close()
	sw, err := openSpace(f.SwitchNetns())
	if err != nil {
		return err
	}
	defer sw.close()

	if _, err := ensureLoopback(node); err != nil {
		return err
	}
	// Pod addresses that no pod has go no further than the node.
	var routes []netlink.Route
	for _, p := range n.PodCIDRs {
		routes = append(routes, unreachable(p))
	}
	if err := ensureRoutes(node, routes...); err != nil {
		return err
	}
	inSwitch, inNode, err := plug(
		end{space: sw, device: switchPort(n), mac: switchMAC(n.IPs[0]), neighbours: n.IPs},
		end{space: node, device: NodeUplink, mac: outerMAC(n.IPs[0]), addresses: n.IPs, neighbours: f.switchIPs},
		f.cfg.MTU)
	if err != nil {
		return err
	}
	var outward, inward []netlink.Route
	for i, family := range f.families() {
		outward = append(outward,
			onLink(f.switchIPs[i], n.IPs[i], inNode),
			via(everything(family), f.switchIPs[i], n.IPs[i], inNode))
		inward = append(inward,
			onLink(n.IPs[i], f.switchIPs[i], inSwitch),
			via(n.PodCIDRs[i], n.IPs[i], f.switchIPs[i], inSwitch))
	}
	if err := ensureRoutes(node, outward...); err != nil {
		return err
	}
	return ensureRoutes(sw, inward...)
}

// RemoveNode pulls the node's cable and takes its namespace away. The machine
// must have ended.
func (f *Fabric) RemoveNode(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.unplugNode(name); err != nil {
		return fmt.Errorf("disconnect node %s: %w", name, err)
	}
	return removeNamespace(f.NodeNetns(name))
}

// ResetNode gives a machine that starts again what a new one would get: a
// fresh namespace without devices of pods that died with the old machine. It
// must not be called while the machine runs.
func (f *Fabric) ResetNode(ctx context.Context, name string) error {
	if err := f.RemoveNode(ctx, name); err != nil {
		return err
	}
	return f.EnsureNode(ctx, name)
}

// unplugNode removes the switch's port now: the old namespace may live on for
// a moment, and its end of the cable with it.
func (f *Fabric) unplugNode(name string) error {
	if !pinned(f.SwitchNetns()) {
		return nil
	}
	n, err := f.node(name)
	if err != nil {
		return err
	}
	sw, err := openSpace(f.SwitchNetns())
	if err != nil {
		return err
	}
	defer sw.close()
	return unplug(sw, switchPort(n))
}
