package pid1

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// Supervisor is init's end of the socket to the supervisor that started it.
type Supervisor struct{ conn *os.File }

// OpenSupervisor takes the inherited descriptor fd.
func OpenSupervisor(fd int) (*Supervisor, error) {
	f := os.NewFile(uintptr(fd), "supervisor")
	if f == nil {
		return nil, fmt.Errorf("open supervisor: descriptor %d is not open", fd)
	}
	unix.CloseOnExec(fd)
	return &Supervisor{conn: f}, nil
}

// Configuration reads the MachineConfiguration, up to the end of the stream.
func (s *Supervisor) Configuration() (*machine.MachineConfiguration, error) {
	data, err := io.ReadAll(s.conn)
	if err != nil {
		return nil, fmt.Errorf("read machine configuration: %w", err)
	}
	cfg := &machine.MachineConfiguration{}
	if err := json.Unmarshal(data, cfg); err != nil {
		return nil, fmt.Errorf("read machine configuration: %w", err)
	}
	return cfg, nil
}

// Report says that the machine has booted, or why not. The supervisor may
// have died meanwhile: its successor finds the machine by itself.
func (s *Supervisor) Report(err error) {
	text := BootDone
	if err != nil {
		text = err.Error()
	}
	_, _ = s.conn.WriteString(text)
	s.conn.Close()
}

// BootDone is what init reports when the machine's services are about to
// start; anything else is an error's text.
const BootDone = "booted"

// Boot makes the machine around the calling process: cgroup namespace, root
// file system, host name. It must run on the thread that later starts the
// services, because a cgroup namespace belongs to a thread until exec.
func Boot(cfg *machine.MachineConfiguration) error {
	if err := joinCgroupNamespace(cfg); err != nil {
		return err
	}
	root, err := openRoot(cfg.NewRoot, cfg.Mounts)
	if err != nil {
		return err
	}
	defer root.close()
	steps := []func(*machine.MachineConfiguration) error{
		root.copySystem,
		root.mountSystem,
		root.mountCgroups,
		root.shadowSysctls,
		root.makeDevices,
		root.writeFiles,
		root.attachBinds,
		root.pivot,
	}
	for _, step := range steps {
		if err := step(cfg); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(cfg.Name)); err != nil {
		return fmt.Errorf("set host name %s: %w", cfg.Name, err)
	}
	return loopbackUp()
}

// joinCgroupNamespace makes the cgroups that the supervisor put this process
// into the roots of the machine's view. On a pure cgroup2 host the machine's
// own directory must hold no process, or its controllers could not be turned
// on for its children: init moves to the leaf "init".
func joinCgroupNamespace(cfg *machine.MachineConfiguration) error {
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroup namespace: %w", err)
	}
	for _, cg := range cfg.Cgroups {
		if cg.Controllers != "" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(cg.HostPath, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("read controllers of %s: %w", cg.HostPath, err)
		}
		if !delegated(strings.Fields(string(data)), len(cfg.Cgroups)) {
			continue
		}
		leaf := filepath.Join(cg.HostPath, "init")
		if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("create cgroup %s: %w", leaf, err)
		}
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("join cgroup %s: %w", leaf, err)
		}
		for _, controller := range strings.Fields(string(data)) {
			// A controller that cannot be delegated (cpuset partitions,
			// hugetlb on odd hosts) only misses in the machine's view.
			_ = os.WriteFile(filepath.Join(cg.HostPath, "cgroup.subtree_control"), []byte("+"+controller), 0)
		}
	}
	return nil
}

// delegated says whether the machine's cgroup2 directory gets child
// directories with controllers: only where cgroup2 is the whole layout.
func delegated(controllers []string, hierarchies int) bool {
	return hierarchies == 1 && len(controllers) > 0
}

// loopbackUp sets lo up: a fresh network namespace has it down.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("read flags of lo: %w", err)
	}
	if ifr.Uint16()&unix.IFF_UP != 0 {
		return nil
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
