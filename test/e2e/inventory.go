package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

// inventory lists what clusters are made of, as it is on the host right now:
// the leak test compares two of them.
func inventory() ([]string, error) {
	var all []string
	for _, take := range []func() ([]string, error){running, mounts, links, routes, tables, cgroups, programs, files} {
		some, err := take()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	sort.Strings(all)
	return all, nil
}

// living is the name of the suite's own cluster while it runs: what changes
// inside of it is no leak.
var living string

// ofLiving says whether a path is inside the living cluster.
func ofLiving(path string) bool {
	return living != "" && strings.Contains(path+"/", "/"+living+"/")
}

func running() ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, d := range dirs {
		cmdline, err := os.ReadFile(d + "/cmdline")
		if err != nil {
			continue // it ended meanwhile
		}
		if cgroup, _ := os.ReadFile(d + "/cgroup"); strings.Contains(string(cgroup), "/skiff/") && ofLiving(string(cgroup)) {
			continue
		}
		words := strings.Split(string(cmdline), "\x00")
		if strings.HasPrefix(filepath.Base(words[0]), "skiff") || strings.Contains(words[0], "/libexec/") {
			found = append(found, fmt.Sprintf("process %s: %s", filepath.Base(d), strings.Join(words, " ")))
		}
	}
	return found, nil
}

func mounts() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.Contains(f[4], "skiff") {
			found = append(found, "mount "+f[4])
		}
	}
	return found, nil
}

func links() ([]string, error) {
	all, err := fabric.Dump(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, l := range all {
		found = append(found, "link "+l.Attrs().Name)
	}
	return found, nil
}

func routes() ([]string, error) {
	all, err := fabric.Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, 0)
	})
	if err != nil {
		return nil, err
	}
	var found []string
	for _, r := range all {
		found = append(found, "route "+r.String())
	}
	return found, nil
}

// tables lists the nftables tables of every family.
func tables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	all, err := conn.ListTables()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, t := range all {
		found = append(found, fmt.Sprintf("nftables table %s of family %d", t.Name, t.Family))
	}
	return found, nil
}

func cgroups() ([]string, error) {
	var found []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // directories come and go while we walk
		}
		if strings.Contains(path, "skiff") {
			found = append(found, "cgroup "+path)
		}
		if ofLiving(path) {
			return filepath.SkipDir
		}
		return nil
	})
	return found, err
}

// programs lists the kernel's BPF programs and maps by id: a program that a
// dead cluster left attached or pinned stays in this list.
func programs() ([]string, error) {
	var found []string
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		found = append(found, fmt.Sprintf("bpf program %d", id))
	}
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		found = append(found, fmt.Sprintf("bpf map %d", id))
	}
	return found, nil
}

// files lists what is below skiff's directories, without the image store,
// which belongs to the host.
func files() ([]string, error) {
	var found []string
	for _, dir := range []string{"/var/lib/skiff", "/run/skiff"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if path == "/var/lib/skiff/images" {
				return filepath.SkipDir
			}
			found = append(found, "file "+path)
			if d.IsDir() && ofLiving(path) {
				return filepath.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
