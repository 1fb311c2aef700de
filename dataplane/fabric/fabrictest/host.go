package fabrictest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

// Root skips tests that need root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Host is a namespace that plays a host: device "uplink" with address
// 192.0.2.2 and a default route through 192.0.2.1, which is the outside.
type Host struct {
	// Netns and Outside are the paths of the two namespaces.
	Netns, Outside string
}

// Uplink is the name of a Host's device to the outside.
const Uplink = "uplink"

// Addresses of a Host and of what is beyond it; the IPv6 ones after AddIPv6.
var (
	HostAddr     = netip.MustParseAddr("192.0.2.2")
	OutsideAddr  = netip.MustParseAddr("192.0.2.1")
	HostAddr6    = netip.MustParseAddr("2001:db8::2")
	OutsideAddr6 = netip.MustParseAddr("2001:db8::1")
)

// NewHost makes a Host that goes with the test. It does not forward.
func NewHost(t testing.TB) Host {
	t.Helper()
	dir := t.TempDir()
	h := Host{Netns: filepath.Join(dir, "host"), Outside: filepath.Join(dir, "outside")}
	NewNetns(t, h.Netns)
	NewNetns(t, h.Outside)
	Sysctl(t, h.Netns, "net/ipv4/ip_forward", "0")
	Sysctl(t, h.Netns, "net/ipv6/conf/default/disable_ipv6", "1")
	Sysctl(t, h.Outside, "net/ipv6/conf/default/disable_ipv6", "1")
	host, outside := Handle(t, h.Netns), Handle(t, h.Outside)
	file, err := os.Open(h.Outside)
	must(t, err)
	defer file.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = Uplink
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "inward", netlink.NsFd(int(file.Fd()))
	must(t, host.LinkAdd(veth))
	address(t, host, Uplink, netip.PrefixFrom(HostAddr, 24))
	address(t, outside, "inward", netip.PrefixFrom(OutsideAddr, 24))
	uplink, err := host.LinkByName(Uplink)
	must(t, err)
	must(t, host.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: OutsideAddr.AsSlice()}))
	return h
}

// AddIPv6 gives a Host IPv6 as well, beside the device with IPv4.
func (h Host) AddIPv6(t testing.TB) {
	t.Helper()
	Sysctl(t, h.Netns, "net/ipv6/conf/default/disable_ipv6", "0")
	Sysctl(t, h.Netns, "net/ipv6/conf/"+Uplink+"/disable_ipv6", "0")
	Sysctl(t, h.Outside, "net/ipv6/conf/inward/disable_ipv6", "0")
	host, outside := Handle(t, h.Netns), Handle(t, h.Outside)
	address(t, host, Uplink, netip.PrefixFrom(HostAddr6, 64))
	address(t, outside, "inward", netip.PrefixFrom(OutsideAddr6, 64))
	uplink, err := host.LinkByName(Uplink)
	must(t, err)
	must(t, host.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: OutsideAddr6.AsSlice()}))
}

func address(t testing.TB, h *netlink.Handle, device string, p netip.Prefix) {
	t.Helper()
	link, err := h.LinkByName(device)
	must(t, err)
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	must(t, h.AddrAdd(link, a))
	must(t, h.LinkSetUp(link))
}

// NewNetns pins a new network namespace at path, lo up, until the test ends.
func NewNetns(t testing.TB, path string) {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o444))
	must(t, thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(Here, path, "", unix.MS_BIND, "")
	}))
	t.Cleanup(func() { must(t, errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path))) })
	h := Handle(t, path)
	lo, err := h.LinkByName("lo")
	must(t, err)
	must(t, h.LinkSetUp(lo))
}

// Handle opens netlink in the namespace at path until the test ends.
func Handle(t testing.TB, path string) *netlink.Handle {
	t.Helper()
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

// Sysctl writes a setting of the namespace at path.
func Sysctl(t testing.TB, path, name, value string) {
	t.Helper()
	must(t, In(path, func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) }))
}

// ReadSysctl reads a setting of the namespace at path.
func ReadSysctl(t testing.TB, path, name string) string {
	t.Helper()
	var value []byte
	must(t, In(path, func() (err error) {
		value, err = os.ReadFile("/proc/sys/" + name)
		return err
	}))
	return strings.TrimSpace(string(value))
}

// In runs fn on a thread inside the namespace at path.
func In(path string, fn func() error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return thread(func() error {
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return fn()
	})
}

// Here is the test's own network namespace.
const Here = "/proc/thread-self/ns/net"

// thread runs fn on a thread that it may move to another namespace. The
// thread goes home afterwards: the process's first one could not end.
func thread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(Here)
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Serve answers, where the client still listens, connections with the client's address, as the server sees it,
// and datagrams with their sender's, on addr ("ip:port") in the namespace at
// path until the test ends.
func Serve(t testing.TB, path, addr string) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	must(t, In(path, func() (err error) {
		if l, err = net.Listen("tcp", addr); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp", addr)
		return err
	}))
	t.Cleanup(func() { l.Close(); p.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(c.RemoteAddr().String()))
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(from.String()), from)
		}
	}()
}

// Ask connects from the namespace at path to a Serve and returns the address
// that it was seen with, and how long it took.
func Ask(path, network, addr string, timeout time.Duration) (seen netip.Addr, took time.Duration, err error) {
	start := time.Now()
	var c net.Conn
	err = In(path, func() (err error) {
		d := net.Dialer{Timeout: timeout}
		c, err = d.Dial(network, addr)
		return err
	})
	if err != nil {
		return netip.Addr{}, time.Since(start), err
	}
	defer c.Close()
	if err := c.SetDeadline(start.Add(timeout)); err != nil {
		return netip.Addr{}, time.Since(start), err
	}
	if strings.HasPrefix(network, "udp") {
		if _, err := c.Write([]byte("?")); err != nil {
			return netip.Addr{}, time.Since(start), err
		}
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		return netip.Addr{}, time.Since(start), err
	}
	from, err := netip.ParseAddrPort(string(buf[:n]))
	return from.Addr(), time.Since(start), err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Uplinks are the devices of the namespace at path by which a default route
// leaves.
func Uplinks(t testing.TB, path string) []string {
	t.Helper()
	h := Handle(t, path)
	routes, err := fabric.Dump(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_ALL) })
	must(t, err)
	var names []string
	for _, r := range routes {
		if r.Dst == nil || !r.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := h.LinkByIndex(r.LinkIndex)
		must(t, err)
		if name := link.Attrs().Name; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
