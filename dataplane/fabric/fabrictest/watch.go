package fabrictest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Watch fails the test at its end if an IPv4 packet with a source or
// destination in one of ranges, or any IPv6 packet, was seen leaving by the
// device in the namespace at path.
func Watch(t testing.TB, path, device string, ranges ...netip.Prefix) {
	t.Helper()
	fd := packetSocket(t, path, device)
	file := os.NewFile(uintptr(fd), "packet")
	var seen []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 128)
		for {
			n, err := file.Read(buf)
			if err != nil {
				return
			}
			if what := offence(buf[:n], ranges); what != "" && len(seen) < 10 {
				seen = append(seen, what)
			}
		}
	}()
	t.Cleanup(func() {
		// Packets that are on their way arrive within a softirq.
		time.Sleep(20 * time.Millisecond)
		file.Close()
		<-done
		for _, s := range seen {
			t.Errorf("on %s: %s", device, s)
		}
	})
}

// packetSocket hears what leaves by a device.
func packetSocket(t testing.TB, path, device string) int {
	t.Helper()
	link, err := Handle(t, path).LinkByName(device)
	must(t, err)
	fd := -1
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	must(t, In(path, func() (err error) {
		// Datagram packet sockets give the packet from its network header.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	}))
	return fd
}

func offence(packet []byte, ranges []netip.Prefix) string {
	if len(packet) < 20 {
		return ""
	}
	if packet[0]>>4 != 4 {
		return ""
	}
	src := netip.AddrFrom4([4]byte(packet[12:16]))
	dst := netip.AddrFrom4([4]byte(packet[16:20]))
	bad := func(a netip.Addr) bool {
		return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if bad(src) || bad(dst) {
		return fmt.Sprintf("packet %s -> %s, protocol %d", src, dst, packet[9])
	}
	return ""
}

// Stock is what tests of the dataplane may leave behind in the process's own
// namespaces.
func Stock() ([]string, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var stock []string
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	for _, l := range links {
		stock = append(stock, "device "+l.Attrs().Name)
	}
	routes, err := h.RouteList(nil, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	for _, r := range routes {
		stock = append(stock, "route "+r.String())
	}
	mounts, err := mounts()
	if err != nil {
		return nil, err
	}
	tables, err := tables()
	if err != nil {
		return nil, err
	}
	return append(append(stock, mounts...), tables...), nil
}

// Main runs a package's tests and fails them if they left something behind.
func Main(m *testing.M, mine func(item string) bool) int {
	before, err := Stock()
	if err != nil {
		fmt.Fprintln(os.Stderr, "take stock:", err)
		return 1
	}
	code := m.Run()
	// Namespaces die in a work queue of the kernel.
	deadline := time.Now().Add(5 * time.Second)
	for {
		after, err := Stock()
		if err != nil {
			fmt.Fprintln(os.Stderr, "take stock:", err)
			return 1
		}
		left := slices.DeleteFunc(after, func(s string) bool { return slices.Contains(before, s) || !mine(s) })
		if len(left) == 0 {
			return code
		}
		if time.Now().After(deadline) {
			for _, s := range left {
				fmt.Fprintln(os.Stderr, "left behind:", s)
			}
			return 1
		}
		time.Sleep(20 * time.Millisecond)
	}
}
