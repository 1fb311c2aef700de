package switchnat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/lb/internal/clsact"
	"github.com/skiff-k8s/skiff/dataplane/lb/internal/sctp"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// Config says where a program goes.
type Config struct {
	// Netns is the path of the network namespace; empty: the caller's.
	Netns string
	// Device is the name of the device in that namespace through which
	// packets from outside come and answers leave.
	Device string
	// PinDir is the directory of a bpf file system for the maps. Load mounts
	// a bpf file system there if the directory is on none.
	PinDir string
}

// filterPriority is the place of our filters at the device.
const filterPriority = 1

// Load makes and pins the maps and attaches the program. A second Load
// replaces the program between two packets and keeps maps and flows.
func Load(cfg Config) error {
	if err := ensureBPFFS(cfg.PinDir); err != nil {
		return err
	}
	t, err := table.Create(cfg.PinDir)
	if err != nil {
		return err
	}
	defer t.Close()
	objects, err := load(t, cfg.PinDir)
	if err != nil {
		return err
	}
	defer objects.Close()

	h, err := clsact.Handle(cfg.Netns)
	if err != nil {
		return err
	}
	defer h.Close()
	dev, err := h.LinkByName(cfg.Device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", cfg.Device, err)
	}
	return clsact.Attach(h, dev, clsact.Filters{Name: "skiff_nat", Priority: filterPriority, Egress: objects.NatOut, Ingress: objects.NatIn})
}

// Remove detaches the program, removes the pins and, if Load mounted it, the
// bpf file system. It succeeds when namespace, device or pins are gone.
func Remove(cfg Config) error {
	var errs []error
	if err := detach(cfg); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, Unpin(cfg.PinDir), removeBPFFS(cfg.PinDir))...)
}

// Unpin removes the pins only; it succeeds when they are gone.
func Unpin(dir string) error {
	return errors.Join(table.Unpin(dir), UnpinFlows(dir))
}

// UnpinFlows removes the pins of the state of flows; it succeeds when they are
// gone.
func UnpinFlows(dir string) error {
	var errs []error
	for _, name := range own {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin: %w", err))
		}
	}
	return errors.Join(errs...)
}

// own are the maps of the program itself, which outlive it.
var own = []string{natMapNatFlows, natMapNatReplies, natMapNatFragments}

func load(t *table.Table, pins string) (*natObjects, error) {
	spec, err := loadNat()
	if err != nil {
		return nil, fmt.Errorf("read packet programs: %w", err)
	}
	objects := &natObjects{}
	if err := Assign(spec, t, pins, objects); err != nil {
		return nil, err
	}
	return objects, nil
}

// Assign loads objects of a spec of programs that translate packets over the
// maps of a table, and with the state of their flows pinned in the directory
// pins; empty: nowhere.
func Assign(spec *ebpf.CollectionSpec, t *table.Table, pins string, objects any) error {
	if err := sctp.Prepare(spec); err != nil {
		return err
	}
	opts := ebpf.CollectionOptions{MapReplacements: t.Maps()}
	if pins != "" {
		for _, name := range own {
			spec.Maps[name].Pinning = ebpf.PinByName
		}
		opts.Maps.PinPath = pins
	}
	err := spec.LoadAndAssign(objects, &opts)
	if errors.Is(err, ebpf.ErrMapIncompatible) && pins != "" {
		// Another release's: its flows cannot go on.
		if err := UnpinFlows(pins); err != nil {
			return err
		}
		err = spec.LoadAndAssign(objects, &opts)
	}
	if err != nil {
		return fmt.Errorf("load packet programs: %w", err)
	}
	return nil
}

func detach(cfg Config) error {
	h, err := clsact.Handle(cfg.Netns)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	dev, err := h.LinkByName(cfg.Device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find device %s: %w", cfg.Device, err)
	}
	return clsact.Detach(h, dev, filterPriority)
}

// ensureBPFFS makes the directory and sees to it that it is in a bpf file
// system.
func ensureBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	ok, err := onBPFFS(dir)
	if err != nil || ok {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpf file system at %s: %w", dir, err)
	}
	return nil
}

// removeBPFFS unmounts a bpf file system whose root is dir. Machines may hold
// it mounted elsewhere.
func removeBPFFS(dir string) error {
	ok, err := onBPFFS(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !ok {
		return err
	}
	// EINVAL: a directory of somebody's bpf file system, not its root.
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

func onBPFFS(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	return st.Type == unix.BPF_FS_MAGIC, nil
}
