package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// inventory lists what machines are made of, as far as these tests make it.
func inventory() []string {
	var all []string
	mounts, _ := readMounts()
	for _, m := range mounts {
		if within(m.point, os.Getenv(EnvRunDir)) || within(m.point, os.Getenv(EnvStateDir)) {
			all = append(all, "mount "+m.point)
		}
	}
	layout, _ := namespaces.Layout()
	for _, h := range layout {
		dirs, _ := filepath.Glob(filepath.Join(h.Mount, "skiff", "svt*"))
		all = append(all, dirs...)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range procs {
		data, _ := os.ReadFile(path)
		line := strings.ReplaceAll(string(data), "\x00", " ")
		if strings.Contains(line, os.Getenv(EnvLibexec)) || strings.Contains(line, "supervise svt") {
			all = append(all, "process "+filepath.Base(filepath.Dir(path))+" "+line)
		}
	}
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_V4)
	for _, r := range routes {
		all = append(all, fmt.Sprintf("route %v", r))
	}
	links, _ := netlink.LinkList()
	for _, l := range links {
		all = append(all, "link "+l.Attrs().Name)
	}
	entries, _ := filepath.Glob(os.Getenv(EnvRunDir) + "/*")
	clusters, _ := filepath.Glob(os.Getenv(EnvStateDir) + "/clusters/*")
	hidden, _ := filepath.Glob(os.Getenv(EnvStateDir) + "/clusters/.*")
	snapshots, _ := filepath.Glob(os.Getenv(EnvStateDir) + "/snapshots/*")
	drafts, _ := filepath.Glob(os.Getenv(EnvStateDir) + "/snapshots/.*")
	return slices.Concat(all, entries, clusters, hidden, snapshots, drafts)
}

func difference(before, after []string) []string {
	return slices.DeleteFunc(slices.Clone(after), func(a string) bool { return slices.Contains(before, a) })
}
