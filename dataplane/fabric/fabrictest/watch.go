package fabrictest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Watch fails the test at its end if a packet with a source or
// destination in one of ranges left by the device in the namespace at path.
func Watch(t testing.TB, path, device string, ranges ...netip.Prefix) {
	t.Helper()
	bad := func(a netip.Addr) bool {
		return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	listen(t, path, device, unix.ETH_P_ALL, func(packet []byte, outgoing bool) string {
		var src, dst netip.Addr
		switch {
		case !outgoing:
			return ""
		case len(packet) >= 20 && packet[0]>>4 == 4:
			src, dst = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
		case len(packet) >= 40 && packet[0]>>4 == 6:
			src, dst = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
		}
		if !bad(src) && !bad(dst) {
			return ""
		}
		return fmt.Sprintf("packet %s -> %s: %x", src, dst, packet[:min(len(packet), 48)])
	})
}

// Quiet fails the test at its end if an IPv6 packet passed the device, either
// way.
func Quiet(t testing.TB, path, device string) {
	t.Helper()
	listen(t, path, device, unix.ETH_P_IPV6, func(packet []byte, outgoing bool) string {
		return fmt.Sprintf("ipv6 packet %x", packet[:min(len(packet), 40)])
	})
}

// listen reports what judge says of the packets on a device when the test
// ends.
func listen(t testing.TB, path, device string, protocol uint16, judge func(packet []byte, outgoing bool) string) {
	t.Helper()
	socket := packetSocket(t, path, device, protocol)
	raw, err := socket.SyscallConn()
	must(t, err)
	var seen []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 128)
		for {
			var n int
			var from unix.Sockaddr
			err := raw.Read(func(fd uintptr) bool {
				var err error
				n, from, err = unix.Recvfrom(int(fd), buf, 0)
				return err != unix.EAGAIN
			})
			if err != nil || from == nil {
				return
			}
			outgoing := from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING
			if what := judge(buf[:n], outgoing); what != "" && len(seen) < 10 {
				seen = append(seen, what)
			}
		}
	}()
	t.Cleanup(func() {
		// Packets that are on their way arrive within a softirq.
		time.Sleep(20 * time.Millisecond)
		socket.Close()
		<-done
		for _, s := range seen {
			t.Errorf("on %s: %s", device, s)
		}
	})
}

// packetSocket hears what passes a device, each packet from its network
// header on.
func packetSocket(t testing.TB, path, device string, protocol uint16) *os.File {
	t.Helper()
	link, err := Handle(t, path).LinkByName(device)
	must(t, err)
	fd := -1
	must(t, In(path, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		wire := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: wire, Ifindex: link.Attrs().Index})
	}))
	return os.NewFile(uintptr(fd), "packets of "+device)
}
