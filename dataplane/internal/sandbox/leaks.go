package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

// stock is what a test program has that outlives a test.
type stock struct {
	// pins are the bpf file systems, by the ids of their mounts. Other mounts
	// come and go with those of the host's other tenants.
	pins  map[string]string
	links []string
}

func takeStock() (stock, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return stock{}, err
	}
	s := stock{pins: bpfMounts(string(mounts))}
	links, err := fabric.Dump(netlink.LinkList)
	if err != nil {
		return stock{}, err
	}
	for _, l := range links {
		s.links = append(s.links, l.Attrs().Name)
	}
	return s, nil
}

// bpfMounts finds the bpf file systems in a mountinfo file: where they are, by
// the ids of their mounts.
func bpfMounts(mountinfo string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.Contains(line, " - bpf ") {
			found[fields[0]] = fields[4]
		}
	}
	return found
}

// newPins lists the mounts that were not there before. Those that are gone
// are no concern of the tests: the mounts that a namespace was born with go
// when somebody on the host removes the directories they are on.
func newPins(before, after map[string]string) []string {
	var left []string
	for id, path := range after {
		if _, ok := before[id]; !ok {
			left = append(left, path)
		}
	}
	slices.Sort(left)
	return left
}

// leaks says what the tests left that was not there before: bpf file systems,
// network devices, descriptors of BPF objects, goroutines of the dataplane.
func (before stock) leaks() error {
	after, err := takeStock()
	if err != nil {
		return err
	}
	var errs []error
	if left := newPins(before.pins, after.pins); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left behind: bpf file systems %q", left))
	}
	if !slices.Equal(after.links, before.links) {
		errs = append(errs, fmt.Errorf("left behind: network devices %v", after.links))
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && (strings.HasPrefix(target, "anon_inode:bpf") || strings.HasPrefix(target, "net:[")) {
			errs = append(errs, fmt.Errorf("left behind: descriptor %s of %s", fd.Name(), target))
		}
	}
	return errors.Join(append(errs, goroutines())...)
}

// goroutines waits a moment for those that are on their way out.
func goroutines() error {
	deadline := time.Now().Add(2 * time.Second)
	for {
		var text strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&text, 1); err != nil {
			return err
		}
		var ours []string
		for _, g := range strings.Split(text.String(), "\n\n") {
			if strings.Contains(g, "skiff/dataplane/") && !strings.Contains(g, "sandbox.Main") {
				ours = append(ours, g)
			}
		}
		if len(ours) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("left behind: goroutines\n%s", strings.Join(ours, "\n\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}
