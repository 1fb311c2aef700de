// Package sandbox runs the tests of the dataplane in namespaces and a cgroup
// of their own: sockets of the tests are translated and nobody else's, no
// packet can leave, and whatever a test forgets goes with the namespaces.
package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// insideEnv tells the test program that it runs inside; its value is the
// cgroup's directory.
const insideEnv = "SKIFF_SANDBOX_CGROUP"

// Main is the body of TestMain. cgroupRoot is where a directory for the tests
// is made in the cgroup2 tree; empty: they need none. Without root the tests
// run as they are, and skip themselves by Root.
func Main(m *testing.M, cgroupRoot string) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(insideEnv) == "" {
		if err := runInside(cgroupRoot); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	before, err := takeStock()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := before.leaks(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// Cgroup is the directory that the tests' sockets are made in.
func Cgroup() string { return os.Getenv(insideEnv) }

// Root skips a test that needs root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func runInside(cgroupRoot string) (err error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	cgroup := "none"
	if cgroupRoot != "" {
		cgroup = filepath.Join(cgroupRoot, fmt.Sprintf("skiff-sandbox-%d", os.Getpid()))
		if err := os.Mkdir(cgroup, 0o755); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.Remove(cgroup)) }()
		dir, err := os.Open(cgroup)
		if err != nil {
			return err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	cmd.Env = append(os.Environ(), insideEnv+"="+cgroup)
	// The parent's death must not be this thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return loopbackUp()
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// BPFFS mounts a bpf file system for one test.
func BPFFS(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		t.Fatalf("mount bpf file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount bpf file system: %v", err)
		}
	})
	return dir
}

// Address gives a device of the tests' own namespace an address for one test.
func Address(t testing.TB, dev, addr string) {
	t.Helper()
	l, err := netlink.LinkByName(dev)
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD // usable at once
	}
	if err := netlink.AddrAdd(l, a); err != nil {
		t.Fatalf("address %s on %s: %v", addr, dev, err)
	}
	t.Cleanup(func() {
		if err := netlink.AddrDel(l, a); err != nil {
			t.Error(err)
		}
	})
	awaitRoute(t, a, netlink.RouteGet)
}

// awaitRoute waits for an address's route: the kernel makes IPv6's a moment
// after the address.
func awaitRoute(t testing.TB, a *netlink.Addr, get func(net.IP) ([]netlink.Route, error)) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		routes, err := get(a.IP)
		if err == nil && routes[0].Type == unix.RTN_LOCAL {
			return
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("address %s: no route to it: %v, %v", a, routes, err)
		}
	}
}

// Namespace is a network namespace of one test.
type Namespace struct {
	t  testing.TB
	ns netns.NsHandle
	// Link speaks netlink in the namespace.
	Link *netlink.Handle
}

// NewNamespace makes a network namespace with loopback up and forwarding on;
// it goes with the test.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	n := &Namespace{t: t}
	OnThread(t, func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if n.ns, err = netns.Get(); err != nil {
			return err
		}
		// The namespace's own, as this thread is in it.
		for _, s := range []struct{ name, value string }{
			{"ipv4/ip_forward", "1"},
			{"ipv6/conf/all/forwarding", "1"},
			// Addresses are the test's own: nobody else can have them.
			{"ipv6/conf/all/accept_dad", "0"},
			{"ipv6/conf/default/accept_dad", "0"},
		} {
			if err := os.WriteFile("/proc/sys/net/"+s.name, []byte(s.value), 0); err != nil {
				return err
			}
		}
		return loopbackUp()
	})
	var err error
	if n.Link, err = netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Link.Close()
		n.ns.Close()
	})
	return n
}

// Here is the namespace that the tests run in.
func Here(t testing.TB) *Namespace {
	t.Helper()
	n := &Namespace{t: t}
	var err error
	if n.ns, err = netns.Get(); err != nil {
		t.Fatal(err)
	}
	if n.Link, err = netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Link.Close()
		n.ns.Close()
	})
	return n
}

// Path names the namespace for those who open it.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.ns)) }

// Do runs f on a thread in the namespace.
func (n *Namespace) Do(f func() error) {
	n.t.Helper()
	OnThread(n.t, func() error {
		if err := netns.Set(n.ns); err != nil {
			return err
		}
		return f()
	})
}

// Cable connects two namespaces by a veth pair, both ends up, for one test.
func Cable(t testing.TB, a *Namespace, aName string, b *Namespace, bName string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	if err := a.Link.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(int(b.ns))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l, err := a.Link.LinkByName(aName); err == nil {
			err = a.Link.LinkDel(l)
			if err != nil {
				t.Errorf("remove cable %s: %v", aName, err)
			}
		}
	})
	for _, end := range []struct {
		n    *Namespace
		name string
	}{{a, aName}, {b, bName}} {
		l, err := end.n.Link.LinkByName(end.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := end.n.Link.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
}

// Address gives a device of the namespace an address, "10.0.0.1/32".
func (n *Namespace) Address(dev, addr string) {
	n.t.Helper()
	l, err := n.Link.LinkByName(dev)
	if err != nil {
		n.t.Fatal(err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		n.t.Fatal(err)
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD // usable at once
	}
	if err := n.Link.AddrAdd(l, a); err != nil {
		n.t.Fatalf("address %s on %s: %v", addr, dev, err)
	}
	awaitRoute(n.t, a, n.Link.RouteGet)
}

// Route adds a route through a device; an empty via means on the link, kind
// is unix.RTN_UNICAST or RTN_LOCAL.
func (n *Namespace) Route(to, via, dev string, kind int) {
	n.t.Helper()
	l, err := n.Link.LinkByName(dev)
	if err != nil {
		n.t.Fatal(err)
	}
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		n.t.Fatal(err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Type: kind}
	switch {
	case kind == unix.RTN_LOCAL:
		r.Scope, r.Table = netlink.SCOPE_HOST, unix.RT_TABLE_LOCAL
	case via == "":
		r.Scope = netlink.SCOPE_LINK
	default:
		r.Gw = net.ParseIP(via)
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	if err := n.Link.RouteAdd(r); err != nil {
		n.t.Fatalf("route %s via %q dev %s: %v", to, via, dev, err)
	}
}

// OnThread runs f on a thread of its own, which dies with whatever f did to it.
func OnThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
