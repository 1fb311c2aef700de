// Package processes lists what runs of a cluster, as the host sees it.
package processes

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Process of a cluster.
type Process struct {
	// PID and Parent are numbers of the host's.
	PID, Parent int
	// Command line, with spaces between its words.
	Command string
	// Machine is empty for the supervisor and its watcher.
	Machine string
}

// Of lists what runs in the cluster's cgroups. A process that only its parent has
// not taken note of does not run; one whose first thread alone has ended does,
// without a command line, as the others keep its files open.
func Of(cluster string) ([]Process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, dir := range dirs {
		if p, ok := read(dir, "/skiff/"+cluster+"/"); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// read says whether the process of a directory runs within a cgroup. It may end
// at any moment.
func read(dir, cgroup string) (p Process, ok bool) {
	cgroups, _ := os.ReadFile(dir + "/cgroup")
	_, below, ok := strings.Cut(string(cgroups), cgroup)
	if !ok {
		return p, false
	}
	stat, _ := os.ReadFile(dir + "/stat")
	_, state, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(state)
	if len(f) < 2 || f[0] == "Z" && !threads(dir) {
		return p, false
	}
	command, _ := os.ReadFile(dir + "/cmdline")
	p.Command = strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
	p.PID, _ = strconv.Atoi(filepath.Base(dir))
	p.Parent, _ = strconv.Atoi(f[1])
	first, _, _ := strings.Cut(below, "\n")
	if p.Machine, _, _ = strings.Cut(first, "/"); strings.HasPrefix(p.Machine, ".") {
		p.Machine = ""
	}
	return p, true
}

// threads says whether a process has some besides the first.
func threads(dir string) bool {
	all, err := os.ReadDir(dir + "/task")
	return err == nil && len(all) > 1
}

// WithoutForks leaves out children that have not yet become another program:
// they have their parent's command line.
func WithoutForks(all []Process) []Process {
	commands := map[int]string{}
	for _, p := range all {
		commands[p.PID] = p.Command
	}
	return slices.DeleteFunc(slices.Clone(all), func(p Process) bool {
		command, ok := commands[p.Parent]
		return ok && command == p.Command
	})
}
