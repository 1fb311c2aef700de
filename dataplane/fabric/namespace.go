package fabric

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// setting is one sysctl of a namespace of ours.
type setting struct{ path, value string }

// routerSettings make a namespace a quiet router. A new namespace starts with
// the host's current IPv4 values (net.core.devconf_inherit_init_net), so all
// that matters is said.
var routerSettings = []setting{
	{"net/ipv4/ip_forward", "1"},
	// A source address that would not be answered on the device it came by
	// is a forged one.
	{"net/ipv4/conf/all/rp_filter", "1"},
	{"net/ipv4/conf/default/rp_filter", "1"},
	{"net/ipv4/conf/all/route_localnet", "0"},
	{"net/ipv4/conf/default/route_localnet", "0"},
	{"net/ipv4/conf/all/send_redirects", "0"},
	{"net/ipv4/conf/default/send_redirects", "0"},
	{"net/ipv4/conf/all/accept_redirects", "0"},
	{"net/ipv4/conf/default/accept_redirects", "0"},
	// The answer "unreachable" must not be rationed, per peer or in all: who
	// does not get it waits for a retransmission, a second or more.
	{"net/ipv4/icmp_ratemask", "0"},
}

// withoutIPv6 is for devices made from now on, not for lo: programs may use
// ::1.
var withoutIPv6 = []setting{{"net/ipv6/conf/default/disable_ipv6", "1"}}

// withIPv6 is the same quiet router.
var withIPv6 = []setting{
	{"net/ipv6/conf/all/disable_ipv6", "0"},
	{"net/ipv6/conf/default/disable_ipv6", "0"},
	{"net/ipv6/conf/all/forwarding", "1"},
	// Nobody's advertisements or redirects.
	{"net/ipv6/conf/all/accept_ra", "0"},
	{"net/ipv6/conf/all/accept_redirects", "0"},
	// As icmp_ratemask: an empty list.
	{"net/ipv6/icmp/ratemask", "\n"},
}

// quietDevices is how pods' devices start, so that nothing has to be written
// for each: deaf, without questions after duplicates and without addresses
// that nobody gave them.
var quietDevices = []setting{
	{"net/ipv6/conf/default/accept_ra", "0"},
	{"net/ipv6/conf/default/accept_redirects", "0"},
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/default/addr_gen_mode", "1"},
}

// settings of a namespace of the cluster; foreign says that its devices are
// not ours alone.
func (f *Fabric) settings(foreign bool) []setting {
	switch {
	case !f.has(IPv6):
		return slices.Concat(routerSettings, withoutIPv6)
	case foreign:
		return slices.Concat(routerSettings, withIPv6)
	}
	return slices.Concat(routerSettings, withIPv6, quietDevices)
}

// currentNetns is the calling thread's network namespace. The threads on which
// goroutines run are at home, except inside Do.
const currentNetns = "/proc/thread-self/ns/net"

// Do runs fn on a thread inside the network namespace of the file nsPath.
// Processes that fn starts live in that namespace; goroutines do not.
func Do(nsPath string, fn func() error) error {
	ns, err := os.Open(nsPath)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer ns.Close()
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", nsPath, err)
		}
		return fn()
	})
}

// onThread runs fn on a thread of its own that fn may move to another network
// namespace. A thread that cannot go home dies with its goroutine.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(currentNetns)
		if err != nil {
			done <- fmt.Errorf("remember network namespace: %w", err)
			return
		}
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		home.Close()
		done <- err
	}()
	return <-done
}

// pinned says whether path is a mounted namespace file.
func pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// ensureNamespace makes a network namespace with settings and pins it at
// path. The pin is the last step: a pinned namespace has its settings.
func ensureNamespace(path string, settings []setting) error {
	if pinned(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	file.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		for _, s := range settings {
			if err := writeSetting(s); err != nil {
				return err
			}
		}
		if err := unix.Mount(currentNetns, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin: %w", err)
		}
		return nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("make network namespace %s: %w", path, err), removeNamespace(path))
	}
	return nil
}

// removeNamespace takes the pin away; the namespace goes with its last
// process.
func removeNamespace(path string) error {
	for pinned(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unpin network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// writeSetting writes a sysctl of the calling thread's network namespace.
func writeSetting(s setting) error {
	err := os.WriteFile("/proc/sys/"+s.path, []byte(s.value), 0)
	if errors.Is(err, fs.ErrNotExist) {
		// A kernel without IPv6, or a device that is gone.
		return nil
	}
	return err
}

// space is an open network namespace: a netlink handle in it and its file.
type space struct {
	*netlink.Handle
	path string
	file *os.File
}

func openSpace(path string) (*space, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return &space{Handle: h, path: path, file: file}, nil
}

func (s *space) close() {
	s.Handle.Close()
	s.file.Close()
}

func (s *space) fd() int { return int(s.file.Fd()) }
