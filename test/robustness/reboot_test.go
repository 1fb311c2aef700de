//go:build robustness

package robustness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

// reboot does to a cluster what a reboot of the host does: its processes,
// mounts, namespaces, devices, cgroups, routes and its run directory are gone,
// and nobody asked its Pods.
func reboot(_ context.Context, c *cluster, _ int) error {
	ranges, err := c.ranges()
	if err != nil {
		return err
	}
	c.killAll()
	return errors.Join(c.unmount(), c.removeCgroups(), removeRoutes(ranges))
}

func (c *cluster) unmount() error {
	run := filepath.Join(runDir, c.name)
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
func (c *cluster) removeCgroups() error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/skiff/" + c.name)
	if err != nil {
		return err
	}
	for _, root := range append(roots, "/sys/fs/cgroup/skiff/"+c.name) {
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
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
}

// removeRoutes removes the host's routes of the cluster that are bound to no
// device, and so do not go with one.
func removeRoutes(ranges []netip.Prefix) error {
	all, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Type: unix.RTN_UNREACHABLE}, netlink.RT_FILTER_TYPE)
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

// cutting lays a machine's cable still, in both directions, or lets it work
// again.
func cutting(cut bool) func(context.Context, *cluster, int) error {
	return func(ctx context.Context, c *cluster, target int) error {
		machine := anywhere(c, target)
		return c.firewall(ctx, machine, cut, fmt.Sprintf("iifname %q drop", fabric.NodeUplink), fmt.Sprintf("oifname %q drop", fabric.NodeUplink))
	}
}

// parting cuts a control plane off from the others, and from nobody else.
func parting(cut bool) func(context.Context, *cluster, int) error {
	return func(ctx context.Context, c *cluster, target int) error {
		machine := onControlPlane(c, target)
		var others []string
		for _, other := range c.controlPlanes() {
			if other != machine {
				others = append(others, c.addresses[other])
			}
		}
		list := "{ " + strings.Join(others, ", ") + " }"
		return c.firewall(ctx, machine, cut, "ip saddr "+list+" drop", "ip daddr "+list+" drop")
	}
}

// firewall drops packets in a machine's network namespace. The table goes
// with the namespace, if the machine dies.
func (c *cluster) firewall(ctx context.Context, machine string, cut bool, in, out string) error {
	const table = "table inet robustness"
	rules := table + "\ndelete " + table + "\n"
	if cut {
		rules += fmt.Sprintf(`%s {
	chain in { type filter hook prerouting priority -300; %s; }
	chain out { type filter hook postrouting priority 300; %s; }
}
`, table, in, out)
	}
	cmd := exec.CommandContext(ctx, "nsenter", "--net="+filepath.Join(runDir, c.name, "netns", machine), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("firewall of %s: %w: %s", machine, err, output)
	}
	return nil
}
