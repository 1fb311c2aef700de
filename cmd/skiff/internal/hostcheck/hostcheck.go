package hostcheck

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Error is something that the host lacks.
type Error struct {
	What string
	mend string
}

func (e *Error) Error() string { return e.What }

// Mend says what the user can do.
func (e *Error) Mend() string { return e.mend }

// Root says whether we may do what machines need. action completes
// "sudo skiff …".
func Root(action string) error {
	if os.Geteuid() != 0 {
		return &Error{"needs root: machines are namespaces, mounts and cgroups of the host", "sudo skiff " + action}
	}
	return nil
}

// Cluster checks what a cluster of that many nodes needs besides what
// supervise.Create checks itself.
func Cluster(nodes int) error {
	if err := veth(); err != nil {
		return &Error{fmt.Sprintf("the kernel lacks links of type veth, the cables between nodes: %v", err), "modprobe veth"}
	}
	return inotify(nodes)
}

// veth asks for a link of one byte per packet. A kernel that knows the type
// refuses the size with EINVAL, one that does not says EOPNOTSUPP: nothing is
// made in either case.
func veth() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "skiff-probe", 1
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "skiff-probe2"}
	err := netlink.LinkAdd(link)
	if err == nil {
		return netlink.LinkDel(link)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return nil
}

const (
	// controlPlaneInotify and nodeInotify are the instances that the processes
	// of one machine open, counted in /proc/<pid>/fd of a running cluster,
	// with some room.
	controlPlaneInotify = 12
	nodeInotify         = 6
	instancesSysctl     = "/proc/sys/fs/inotify/max_user_instances"
)

// inotify opens as many instances as the cluster will: the limit counts those
// of all programs of the user, which nobody can read off.
func inotify(nodes int) error {
	need := controlPlaneInotify + nodes*nodeInotify
	fds := make([]int, 0, need)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range need {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			return inotifyError(need, len(fds), err)
		}
		fds = append(fds, fd)
	}
	return nil
}

func inotifyError(need, free int, err error) error {
	limit, readErr := os.ReadFile(instancesSysctl)
	if !errors.Is(err, unix.EMFILE) || readErr != nil {
		return fmt.Errorf("inotify instances: %w", err)
	}
	have, convErr := strconv.Atoi(strings.TrimSpace(string(limit)))
	if convErr != nil {
		return fmt.Errorf("inotify instances: %w", errors.Join(err, convErr))
	}
	// Twice what is missing now: this is rarely the last cluster.
	return &Error{fmt.Sprintf("inotify instances: %d of %d are free, need %d", free, have, need),
		fmt.Sprintf("sysctl -w fs.inotify.max_user_instances=%d", max(512, have+2*(need-free)))}
}
