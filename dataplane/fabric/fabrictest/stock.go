package fabrictest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

// Main runs a package's tests and fails them if they left something behind in
// the process's own namespaces: a device, a route, a pinned namespace, an
// nftables table. Other tests on the machine come and go meanwhile: only
// items that contain one of the given strings count.
func Main(m *testing.M, mine ...string) int {
	before, err := stock()
	if err != nil {
		fmt.Fprintln(os.Stderr, "take stock:", err)
		return 1
	}
	code := m.Run()
	others := func(item string) bool {
		return slices.Contains(before, item) ||
			!slices.ContainsFunc(mine, func(s string) bool { return strings.Contains(item, s) })
	}
	// Namespaces die in a work queue of the kernel.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		after, err := stock()
		if err != nil {
			fmt.Fprintln(os.Stderr, "take stock:", err)
			return 1
		}
		left := slices.DeleteFunc(after, others)
		if len(left) == 0 {
			return code
		}
		if time.Now().After(deadline) {
			for _, s := range left {
				fmt.Fprintln(os.Stderr, "left behind:", s)
			}
			return 1
		}
	}
}

// stock lists what tests may leave behind.
func stock() ([]string, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var found []string
	links, err := fabric.Dump(h.LinkList)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		found = append(found, "device "+l.Attrs().Name)
	}
	routes, err := fabric.Dump(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		found = append(found, "route "+r.String())
	}
	mounts, err := mounts()
	if err != nil {
		return nil, err
	}
	tables, err := tables()
	if err != nil {
		return nil, err
	}
	return slices.Concat(found, mounts, tables), nil
}

// mounts lists the pinned namespaces.
func mounts() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.Contains(line, " - nsfs ") {
			found = append(found, "mount "+fields[4])
		}
	}
	return found, nil
}

// tables lists the nftables tables.
func tables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	list, err := conn.ListTables()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, t := range list {
		found = append(found, "nftables table "+t.Name)
	}
	return found, nil
}
