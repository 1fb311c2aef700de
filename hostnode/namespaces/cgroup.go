package namespaces

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// Hierarchy is one mounted cgroup tree of the host.
type Hierarchy struct {
	// Mount is where the host has it, "/sys/fs/cgroup/memory".
	Mount string
	// Controllers are the v1 controllers or the v1 name ("cpu,cpuacct",
	// "name=systemd"); empty for cgroup2.
	Controllers string
}

// Hierarchies is the host's cgroup layout: pure v2 (one cgroup2 tree), or
// hybrid (v1 trees, and perhaps a cgroup2 tree without controllers).
type Hierarchies []Hierarchy

// Layout reads the calling process's mounts.
func Layout() (Hierarchies, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read cgroup layout: %w", err)
	}
	layout := parseLayout(string(data))
	if len(layout) == 0 {
		return nil, errors.New("read cgroup layout: no cgroup file system is mounted")
	}
	return layout, nil
}

// v1Options are super-block options of a v1 mount that name no controller.
var v1Options = []string{"rw", "ro", "none", "all", "clone_children", "noprefix", "xattr", "cpuset_v2_mode", "favordynmods", "nofavordynmods"}

func parseLayout(mountinfo string) Hierarchies {
	var layout Hierarchies
	for line := range strings.Lines(mountinfo) {
		fields, super, ok := strings.Cut(strings.TrimSpace(line), " - ")
		mount, kind := strings.Fields(fields), strings.Fields(super)
		if !ok || len(mount) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			layout = append(layout, Hierarchy{Mount: mount[4]})
		case "cgroup":
			controllers := slices.DeleteFunc(strings.Split(kind[2], ","), func(o string) bool {
				return slices.Contains(v1Options, o) || strings.HasPrefix(o, "release_agent=")
			})
			layout = append(layout, Hierarchy{Mount: mount[4], Controllers: strings.Join(controllers, ",")})
		}
	}
	// One mount of each tree is enough.
	seen := map[string]bool{}
	return slices.DeleteFunc(layout, func(h Hierarchy) bool {
		again := seen[h.Controllers]
		seen[h.Controllers] = true
		return again
	})
}

// Pure says whether cgroup2 is the only tree.
func (hs Hierarchies) Pure() bool { return len(hs) == 1 && hs[0].Controllers == "" }

// Machine lists the directories of path for the machine's configuration.
func (hs Hierarchies) Machine(path string) []machine.Cgroup {
	var list []machine.Cgroup
	for _, h := range hs {
		list = append(list, machine.Cgroup{HostPath: filepath.Join(h.Mount, path), Controllers: h.Controllers, MountPath: h.Mount})
	}
	return list
}

// Limits of a machine; zero means none.
type Limits struct {
	// CPU is whole cores.
	CPU int
	// MemoryBytes covers everything in the machine, page cache too.
	MemoryBytes int64
	// PIDs is the most processes and threads.
	PIDs int
}

// cpuPeriod is the scheduler's period in microseconds.
const cpuPeriod = 100000

// Ensure makes the directories of path ("skiff/dev/dev-worker") in every tree
// and sets the limits of the last one.
func (hs Hierarchies) Ensure(path string, limits Limits) error {
	for _, h := range hs {
		if err := h.ensure(path, hs.Pure()); err != nil {
			return err
		}
		for name, value := range h.settings(limits) {
			file := filepath.Join(h.Mount, path, name)
			if have, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(have)) == value {
				continue
			}
			if err := os.WriteFile(file, []byte(value), 0); err != nil {
				return fmt.Errorf("set limit %s to %s: %w", file, value, err)
			}
		}
	}
	return nil
}

func (h Hierarchy) ensure(path string, pure bool) error {
	dir := h.Mount
	for name := range strings.SplitSeq(path, "/") {
		if pure {
			if err := enableControllers(dir); err != nil {
				return err
			}
		}
		parent := dir
		dir = filepath.Join(dir, name)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("create cgroup %s: %w", dir, err)
		}
		if slices.Contains(strings.Split(h.Controllers, ","), "cpuset") {
			// A new v1 cpuset is empty and takes no process.
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(parent, file))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, file), value, 0)
				}
				if err != nil {
					return fmt.Errorf("create cgroup %s: %w", dir, err)
				}
			}
		}
	}
	return nil
}

// enableControllers passes a cgroup2 directory's controllers on to its
// children.
func enableControllers(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("enable controllers in %s: %w", dir, err)
	}
	on, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return fmt.Errorf("enable controllers in %s: %w", dir, err)
	}
	var missing []string
	for _, controller := range []string{"cpu", "cpuset", "io", "memory", "pids", "hugetlb"} {
		if slices.Contains(strings.Fields(string(have)), controller) && !slices.Contains(strings.Fields(string(on)), controller) {
			missing = append(missing, "+"+controller)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(missing, " ")), 0); err != nil {
		return fmt.Errorf("enable controllers %s in %s: %w", strings.Join(missing, " "), dir, err)
	}
	return nil
}

// settings are the files that limit a directory of this tree.
func (h Hierarchy) settings(l Limits) map[string]string {
	s := map[string]string{}
	v1 := strings.Split(h.Controllers, ",")
	if l.CPU > 0 {
		switch {
		case h.Controllers == "":
			s["cpu.max"] = fmt.Sprintf("%d %d", l.CPU*cpuPeriod, cpuPeriod)
		case slices.Contains(v1, "cpu"):
			s["cpu.cfs_quota_us"] = strconv.Itoa(l.CPU * cpuPeriod)
		}
	}
	if l.MemoryBytes > 0 {
		// The kernel keeps whole pages.
		bytes := strconv.FormatInt(l.MemoryBytes&^int64(os.Getpagesize()-1), 10)
		switch {
		case h.Controllers == "":
			s["memory.max"] = bytes
		case slices.Contains(v1, "memory"):
			s["memory.limit_in_bytes"] = bytes
		}
	}
	if l.PIDs > 0 && (h.Controllers == "" || slices.Contains(v1, "pids")) {
		s["pids.max"] = strconv.Itoa(l.PIDs)
	}
	if h.Controllers == "" {
		// A hybrid host's cgroup2 tree has no controllers.
		have, _ := os.ReadFile(filepath.Join(h.Mount, "cgroup.controllers"))
		for file := range s {
			controller, _, _ := strings.Cut(file, ".")
			if !slices.Contains(strings.Fields(string(have)), controller) {
				delete(s, file)
			}
		}
	}
	return s
}

// joinThread puts the calling thread into path of every v1 tree, so that what
// it forks starts there. Unlike the move of a process, the move of the
// calling thread needs no lock that waits for every processor. Cgroup2 moves
// whole processes only: fork into the returned directory instead (-1: the
// host has no cgroup2 tree).
func (hs Hierarchies) joinThread(path string) (cgroup2 int, err error) {
	cgroup2 = -1
	for _, h := range hs {
		dir := filepath.Join(h.Mount, path)
		if h.Controllers == "" {
			f, err := openDir(dir)
			if err != nil {
				return -1, fmt.Errorf("open cgroup %s: %w", dir, err)
			}
			cgroup2 = f
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0); err != nil {
			return cgroup2, fmt.Errorf("join cgroup %s: %w", dir, err)
		}
	}
	return cgroup2, nil
}

// Processes lists what lives in path and below, in any tree, as the caller's
// pid namespace numbers it.
func (hs Hierarchies) Processes(path string) ([]int, error) {
	seen := map[int]bool{}
	for _, h := range hs {
		err := filepath.WalkDir(filepath.Join(h.Mount, path), func(dir string, entry os.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return gone(err)
			}
			in, err := processesIn(dir)
			for _, pid := range in {
				seen[pid] = true
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list processes of cgroup %s: %w", filepath.Join(h.Mount, path), err)
		}
	}
	pids := make([]int, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	return pids, nil
}

// processesIn lists what lives in one directory; nothing if it is gone.
func processesIn(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, gone(err)
	}
	var pids []int
	for _, line := range bytes.Fields(data) {
		if pid, err := strconv.Atoi(string(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
