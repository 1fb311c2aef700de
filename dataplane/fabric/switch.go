package fabric

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
)

// EnsureSwitch makes the cluster's switch and its cable to the host. The
// host's unreachable routes come first, so that no packet for the cluster's
// ranges leaves while the rest is being made.
func (f *Fabric) EnsureSwitch(ctx context.Context) error {
	host, err := openSpace(f.cfg.HostNetns)
	if err != nil {
		return err
	}
	defer host.close()
	if err := ensureRoutes(host, f.guards()...); err != nil {
		return fmt.Errorf("guard the cluster's ranges on the host: %w", err)
	}
	// A new nftables table takes the kernel longer than all the rest.
	steps, ctx := errgroup.WithContext(ctx)
	steps.Go(f.EnsureEgress)
	steps.Go(func() error { return f.ensureSwitch(ctx, host) })
	return steps.Wait()
}

func (f *Fabric) ensureSwitch(ctx context.Context, host *space) error {
	if err := ensureNamespace(f.SwitchNetns(), f.settings(false)); err != nil {
		return err
	}
	var rules errgroup.Group
	if f.has(IPv6) {
		rules.Go(func() error { return ensureIPv6(f.SwitchNetns(), dropForged(), refuseNobody()) })
	}
	return errors.Join(f.connectSwitch(ctx, host), rules.Wait())
}

// connectSwitch lays the cable to the host, and the routes on both sides.
func (f *Fabric) connectSwitch(ctx context.Context, host *space) error {
	sw, err := openSpace(f.SwitchNetns())
	if err != nil {
		return err
	}
	defer sw.close()
	if err := f.ensureSwitchRoutes(sw); err != nil {
		return fmt.Errorf("set up the switch: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	onHost, inSwitch, err := plug(
		end{space: host, device: f.HostDevice(), mac: outerMAC(f.hostIPs[0]), addresses: f.hostIPs, neighbours: f.switchIPs},
		end{space: sw, device: SwitchUplink, mac: switchMAC(f.hostIPs[0]), neighbours: f.hostIPs},
		f.cfg.MTU)
	if err != nil {
		return err
	}
	var routes []netlink.Route
	for i, family := range f.families() {
		routes = append(routes,
			onLink(f.hostIPs[i], f.switchIPs[i], inSwitch),
			via(everything(family), f.hostIPs[i], f.switchIPs[i], inSwitch))
	}
	if err := ensureRoutes(sw, routes...); err != nil {
		return fmt.Errorf("lead the switch to the host: %w", err)
	}
	routes = nil
	for i, family := range f.families() {
		routes = append(routes, onLink(f.switchIPs[i], f.hostIPs[i], onHost))
		for _, p := range f.cfg.All() {
			if FamilyOf(p.Addr()) == family {
				routes = append(routes, via(p, f.switchIPs[i], f.hostIPs[i], onHost))
			}
		}
	}
	if err := ensureRoutes(host, routes...); err != nil {
		return fmt.Errorf("lead the host to the switch: %w", err)
	}
	return nil
}

// guards are the host's unreachable routes.
func (f *Fabric) guards() []netlink.Route {
	var routes []netlink.Route
	for _, p := range f.cfg.All() {
		routes = append(routes, unreachable(p))
	}
	return routes
}

// ensureSwitchRoutes gives the switch its address and what it says about
// addresses that nobody has. The ranges of services and load balancers are
// local to it: whatever was not translated before is refused at once by its
// own stack. Only the switch may do so; in a node, programs that listen on
// every address would answer.
func (f *Fabric) ensureSwitchRoutes(sw *space) error {
	lo, err := ensureLoopback(sw)
	if err != nil {
		return err
	}
	for _, ip := range f.switchIPs {
		if err := ensureAddress(sw, lo, ip); err != nil {
			return err
		}
		if err := EnsureLocal(sw.Handle, lo.Attrs().Index, ip); err != nil {
			return err
		}
	}
	var routes []netlink.Route
	for _, p := range slices.Concat(f.cfg.NodeSubnets, f.cfg.PodSubnets) {
		routes = append(routes, unreachable(p))
	}
	for _, p := range slices.Concat(f.cfg.ServiceSubnets, f.cfg.LoadBalancerSubnets) {
		routes = append(routes, local(p, lo.Attrs().Index))
	}
	return ensureRoutes(sw, routes...)
}

// Remove takes the whole fabric down: cables, namespaces, the host's connections
// to the cluster, and last the host's unreachable routes. Machines have ended or
// are ending.
func (f *Fabric) Remove(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	host, err := openSpace(f.cfg.HostNetns)
	if err != nil {
		return err
	}
	defer host.close()
	if err := unplug(host, f.HostDevice()); err != nil {
		return err
	}
	if err := errors.Join(f.removeEgress(), f.removeNamespaces()); err != nil {
		return err
	}
	if err := f.endSockets(); err != nil {
		return err
	}
	return removeRoutes(host, f.guards()...)
}

// removeNamespaces unpins whatever is pinned in the cluster's directory:
// nodes that are in no configuration any more as well.
func (f *Fabric) removeNamespaces() error {
	entries, err := os.ReadDir(f.cfg.NetnsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, removeNamespace(f.NodeNetns(e.Name())))
	}
	if err := os.Remove(f.cfg.NetnsDir); err != nil {
		errs = append(errs, fmt.Errorf("remove directory of network namespaces: %w", err))
	}
	return errors.Join(errs...)
}
