// Package clsact attaches programs to devices as clsact filters: they cost
// little to attach, and stay with their device, whatever becomes of who did.
package clsact

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Filters are the programs at a device, and their place there: an attachment
// replaces the one that is in its place between two packets.
type Filters struct {
	Priority uint16
	// Egress and Ingress are nil for none.
	Egress, Ingress *ebpf.Program
	// Name is what tc shows of them.
	Name string
}

// handle is the number of our filters at their priority.
const handle = 1

// Handle is a netlink socket in the network namespace at path; empty: the
// caller's.
func Handle(path string) (*netlink.Handle, error) {
	if path == "" {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, fmt.Errorf("open netlink: %w", err)
		}
		return h, nil
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", path, err)
	}
	return h, nil
}

// Attach puts programs at a device.
func Attach(h *netlink.Handle, dev netlink.Link, f Filters) error {
	name := dev.Attrs().Name
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: dev.Attrs().Index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
	if err := h.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to %s: %w", name, err)
	}
	// The way back first: a flow is never translated one way only.
	for _, at := range []struct {
		parent uint32
		prog   *ebpf.Program
	}{{netlink.HANDLE_MIN_EGRESS, f.Egress}, {netlink.HANDLE_MIN_INGRESS, f.Ingress}} {
		if at.prog == nil {
			continue
		}
		err := h.FilterReplace(&netlink.BpfFilter{
			FilterAttrs: attrs(dev, at.parent, f.Priority), Fd: at.prog.FD(), Name: f.Name, DirectAction: true,
		})
		if err != nil {
			return fmt.Errorf("attach %s to %s: %w", f.Name, name, err)
		}
	}
	return nil
}

// Detach takes what Attach put there with this priority; it succeeds when it
// is gone.
func Detach(h *netlink.Handle, dev netlink.Link, priority uint16) error {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		err := h.FilterDel(&netlink.BpfFilter{FilterAttrs: attrs(dev, parent, priority)})
		// EINVAL: the device has no clsact.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("detach from %s: %w", dev.Attrs().Name, err)
		}
	}
	return nil
}

func attrs(dev netlink.Link, parent uint32, priority uint16) netlink.FilterAttrs {
	return netlink.FilterAttrs{
		LinkIndex: dev.Attrs().Index,
		Parent:    parent,
		Handle:    handle,
		Priority:  priority,
		Protocol:  unix.ETH_P_ALL,
	}
}
