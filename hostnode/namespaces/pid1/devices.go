package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// device is a character or block device of the machine's /dev.
type device struct {
	name         string
	kind         uint32
	major, minor uint32
	mode         uint32
}

// standardDevices are what every container runtime gives. kmsg is the null
// device: the kubelet wants to open it, and the host's kernel log is none of
// the machine's business.
var standardDevices = []device{
	{"null", unix.S_IFCHR, 1, 3, 0o666},
	{"zero", unix.S_IFCHR, 1, 5, 0o666},
	{"full", unix.S_IFCHR, 1, 7, 0o666},
	{"random", unix.S_IFCHR, 1, 8, 0o666},
	{"urandom", unix.S_IFCHR, 1, 9, 0o666},
	{"tty", unix.S_IFCHR, 5, 0, 0o666},
	{"kmsg", unix.S_IFCHR, 1, 3, 0o600},
}

// hostDevices are given when the host has them: file systems in user space,
// tunnels, and loop devices for block volumes.
var hostDevices = []string{"fuse", "net/tun", "loop-control", "loop[0-9]*"}

func (r *root) makeDevices(*machine.MachineConfiguration) error {
	old := unix.Umask(0)
	defer unix.Umask(old)
	devices := standardDevices
	for _, pattern := range hostDevices {
		paths, err := filepath.Glob("/dev/" + pattern)
		if err != nil {
			return fmt.Errorf("list devices %s: %w", pattern, err)
		}
		for _, path := range paths {
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				continue // gone since the listing
			}
			kind := st.Mode & unix.S_IFMT
			if kind != unix.S_IFCHR && kind != unix.S_IFBLK {
				continue
			}
			devices = append(devices, device{path[len("/dev/"):], kind, unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Mode & 0o777})
		}
	}
	for _, d := range devices {
		path := r.at("/dev/" + d.name)
		err := unix.Mknod(path, d.kind|d.mode, int(unix.Mkdev(d.major, d.minor)))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make device /dev/%s: %w", d.name, err)
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "core": "/proc/kcore",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, r.at("/dev/"+name)); err != nil {
			return fmt.Errorf("link /dev/%s: %w", name, err)
		}
	}
	return nil
}
