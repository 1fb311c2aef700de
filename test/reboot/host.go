package reboot

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

// Host ends a cluster as a reboot of the host does: its processes, mounts,
// namespaces, devices, cgroups, firewall rules, routes and its run directory
// are gone, and nobody asked its Pods. ranges are the addresses of its nodes,
// Pods, Services and load balancers.
func Host(cluster string, ranges []netip.Prefix) error {
	if err := Kill(cluster); err != nil {
		return err
	}
	return errors.Join(unmount(cluster), removeCgroups(cluster), removeTables(cluster), removeRoutes(ranges))
}

func unmount(cluster string) error {
	run := filepath.Join("/run/skiff", cluster)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := slices.Collect(strings.Lines(string(mounts)))
	slices.Reverse(lines)
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], run+"/") {
			// The last reference to a network namespace, or to bpf pins.
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", f[4], err)
			}
		}
	}
	return os.RemoveAll(run)
}

// removeCgroups removes directories deepest first.
func removeCgroups(cluster string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/skiff/" + cluster)
	if err != nil {
		return err
	}
	for _, root := range append(roots, "/sys/fs/cgroup/skiff/"+cluster) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			if err := removeCgroup(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroup waits for the kernel, which lets go of dead processes a little
// after they are gone from /proc.
func removeCgroup(dir string) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(pace) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
}

// removeTables removes the host's firewall rules of the cluster.
func removeTables(cluster string) error {
	firewall, err := nftables.New()
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	tables, err := firewall.ListTables()
	if err != nil {
		return fmt.Errorf("firewall: list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == "skiff-"+cluster {
			firewall.DelTable(t)
		}
	}
	if err := firewall.Flush(); err != nil {
		return fmt.Errorf("firewall: remove tables skiff-%s: %w", cluster, err)
	}
	return nil
}

// removeRoutes removes the host's routes of the cluster that are bound to no
// device, and so do not go with one: the host's end of a cable goes with the
// network namespace of the other end.
func removeRoutes(ranges []netip.Prefix) error {
	all, err := fabric.Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Type: unix.RTN_UNREACHABLE}, netlink.RT_FILTER_TYPE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range all {
		if r.Dst == nil {
			continue
		}
		to, _ := netip.AddrFromSlice(r.Dst.IP)
		if slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(to.Unmap()) }) {
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route %s: %w", r, err)
			}
		}
	}
	return nil
}
