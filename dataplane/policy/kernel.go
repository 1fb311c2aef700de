package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// kernel is one set of programs and maps.
type kernel struct {
	objects bpfObjects
	table   table
	// pins is the directory of all sets, number this one's name in it and the
	// priority of its hooks: two sets may be attached at a time.
	pins   string
	number int
	// links keeps every link referenced: one that is not is closed by its
	// finalizer, which detaches the program.
	links []link.Link
}

// loadKernel loads the programs with empty maps. The flows and the counts of
// drops are those of the set before, if there is one.
func loadKernel(pins string) (*kernel, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("read policy programs: %w", err)
	}
	k := &kernel{pins: pins, number: 1}
	var opts ebpf.CollectionOptions
	if pins != "" {
		if err := os.MkdirAll(pins, 0o700); err != nil {
			return nil, fmt.Errorf("make pin directory: %w", err)
		}
		for _, name := range sharedMaps() {
			spec.Maps[name].Pinning = ebpf.PinByName
		}
		opts.Maps.PinPath = pins
		before, err := sets(pins)
		if err != nil {
			return nil, err
		}
		for _, n := range before {
			k.number = max(k.number, n+1)
		}
	}
	err = spec.LoadAndAssign(&k.objects, &opts)
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		// Another release's: its programs go on with them until they go.
		if err := unpinShared(pins); err != nil {
			return nil, err
		}
		err = spec.LoadAndAssign(&k.objects, &opts)
	}
	if err != nil {
		return nil, fmt.Errorf("load policy programs: %w", err)
	}
	k.table = table{&k.objects.bpfMaps}
	return k, nil
}

// sharedMaps outlive a set of programs.
func sharedMaps() []string { return []string{bpfMapPolicyFlows, bpfMapPolicyDrops} }

// hook is a program and where it goes.
type hook struct {
	name   string
	prog   *ebpf.Program
	family link.NetfilterProtocolFamily
	at     link.NetfilterInetHook
}

func (k *kernel) hooks() []hook {
	o := &k.objects
	return []hook{
		// What remembers comes before what judges.
		{bpfProgPolicyLocalOut4, o.PolicyLocalOut4, link.NetfilterProtoIPv4, link.NetfilterInetLocalOut},
		{bpfProgPolicyLocalOut6, o.PolicyLocalOut6, link.NetfilterProtoIPv6, link.NetfilterInetLocalOut},
		{bpfProgPolicyForward4, o.PolicyForward4, link.NetfilterProtoIPv4, link.NetfilterInetForward},
		{bpfProgPolicyForward6, o.PolicyForward6, link.NetfilterProtoIPv6, link.NetfilterInetForward},
		{bpfProgPolicyLocalIn4, o.PolicyLocalIn4, link.NetfilterProtoIPv4, link.NetfilterInetLocalIn},
		{bpfProgPolicyLocalIn6, o.PolicyLocalIn6, link.NetfilterProtoIPv6, link.NetfilterInetLocalIn},
	}
}

func (k *kernel) dir() string { return filepath.Join(k.pins, strconv.Itoa(k.number)) }

func (k *kernel) attached() bool { return len(k.links) > 0 }

// attach puts the programs at the hooks of this network namespace and pins
// them there.
func (k *kernel) attach() (err error) {
	if k.attached() {
		return nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.detach())
		}
	}()
	if k.pins != "" {
		if err := os.Mkdir(k.dir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make pin directory: %w", err)
		}
	}
	for _, h := range k.hooks() {
		l, err := link.AttachNetfilter(link.NetfilterOptions{
			Program: h.prog, ProtocolFamily: h.family, Hook: h.at, Priority: int32(k.number),
		})
		if errors.Is(err, unix.EAFNOSUPPORT) && h.family == link.NetfilterProtoIPv6 {
			// A kernel without IPv6 has no such packets.
			continue
		}
		if err != nil {
			return fmt.Errorf("attach %s: %w", h.name, err)
		}
		k.links = append(k.links, l)
		if k.pins == "" {
			continue
		}
		if err := l.Pin(filepath.Join(k.dir(), h.name)); err != nil {
			return fmt.Errorf("pin %s: %w", h.name, err)
		}
	}
	return nil
}

// detach takes the programs away.
func (k *kernel) detach() error {
	var errs []error
	for _, l := range k.links {
		errs = append(errs, l.Close())
	}
	k.links = nil
	if k.pins != "" {
		errs = append(errs, removeSet(k.dir()))
	}
	return errors.Join(errs...)
}

// close lets go of programs, maps and links; what is pinned stays in force.
func (k *kernel) close() error {
	var errs []error
	for _, l := range k.links {
		errs = append(errs, l.Close())
	}
	k.links = nil
	return errors.Join(append(errs, k.objects.Close())...)
}

// Drops are packets that policies dropped since the first one existed.
type Drops struct {
	// Egress and Ingress are by the direction whose policies allow them not.
	Egress, Ingress uint64
	// Malformed have no ports where their protocol must have some.
	Malformed uint64
}

func (k *kernel) drops() (Drops, error) {
	sum := func(reason bpfPolicyDrop) (uint64, error) {
		var perCPU []uint64
		if err := k.objects.PolicyDrops.Lookup(&reason, &perCPU); err != nil {
			return 0, fmt.Errorf("read policy_drops: %w", err)
		}
		var n uint64
		for _, c := range perCPU {
			n += c
		}
		return n, nil
	}
	egress, errE := sum(bpfPolicyDropPOLICY_DROP_EGRESS)
	ingress, errI := sum(bpfPolicyDropPOLICY_DROP_INGRESS)
	malformed, errM := sum(bpfPolicyDropPOLICY_DROP_MALFORMED)
	return Drops{egress, ingress, malformed}, errors.Join(errE, errI, errM)
}

// sets are the numbers of the sets that are pinned in a directory.
func sets(pins string) ([]int, error) {
	entries, err := os.ReadDir(pins)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var out []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, n)
		}
	}
	return out, nil
}

// removeSets takes all pinned sets away but one; 0: all.
func removeSets(pins string, but int) error {
	if pins == "" {
		return nil
	}
	all, err := sets(pins)
	errs := []error{err}
	for _, n := range all {
		if n != but {
			errs = append(errs, removeSet(filepath.Join(pins, strconv.Itoa(n))))
		}
	}
	return errors.Join(errs...)
}

func removeSet(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("unpin policy programs: %w", err)
	}
	return nil
}

func unpinShared(pins string) error {
	var errs []error
	for _, name := range sharedMaps() {
		if err := os.Remove(filepath.Join(pins, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Unpin removes every pin of a Loader in dir, which detaches its programs. It
// succeeds when they are gone. Machines need no Unpin: their bpf file system
// goes with them.
func Unpin(dir string) error {
	return errors.Join(removeSets(dir, 0), unpinShared(dir))
}
