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
)

// stock is what a test program has that outlives a test.
type stock struct {
	// pins are the bpf file systems. Other mounts come and go with those of
	// the host's other tenants.
	pins  []string
	links []string
}

func takeStock() (stock, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return stock{}, err
	}
	var s stock
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, " - bpf ") {
			s.pins = append(s.pins, line)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return stock{}, err
	}
	for _, l := range links {
		s.links = append(s.links, l.Attrs().Name)
	}
	return s, nil
}

// leaks says what the tests left that was not there before: bpf file systems,
// network devices, descriptors of BPF objects, goroutines of the dataplane.
func (before stock) leaks() error {
	after, err := takeStock()
	if err != nil {
		return err
	}
	var errs []error
	if !slices.Equal(after.pins, before.pins) {
		errs = append(errs, fmt.Errorf("left behind: bpf file systems %q", after.pins))
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
