package lb

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

var (
	vip      = netip.MustParseAddr("10.96.0.20")
	nodeAddr = netip.MustParseAddr("172.30.0.11")
	other    = netip.MustParseAddr("172.30.0.12")
	loopback = netip.MustParseAddr("127.0.0.1")
)

// world is one set of programs at the test's cgroup, and servers on loopback.
type world struct {
	*testing.T
	table   *table.Table
	sockets *sockets
}

func newWorld(t *testing.T) *world {
	sandbox.Root(t)
	tab, err := table.Create("")
	if err != nil {
		t.Fatal(err)
	}
	s, err := loadSockets(tab, mustCookie(t), sandbox.Cgroup(), "", families)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.attach(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.close(), tab.Close()); err != nil {
			t.Error(err)
		}
	})
	return &world{T: t, table: tab, sockets: s}
}

// mustCookie is the cookie of the tests' own network namespace.
func mustCookie(t testing.TB) uint64 {
	t.Helper()
	cookie, err := netnsCookie()
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

func (w *world) set(f table.Frontend) {
	w.Helper()
	if _, err := w.table.Set(f); err != nil {
		w.Fatal(err)
	}
}

// tcpServer answers every connection with its own address.
func (w *world) tcpServer(addr string) netip.AddrPort {
	w.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		w.Fatal(err)
	}
	own := l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, own) // the client may be gone
			c.Close()
		}
	})
	w.Cleanup(func() { l.Close(); wg.Wait() })
	return netip.MustParseAddrPort(own)
}

// udpServer answers every datagram with its own address.
func (w *world) udpServer(addr string) netip.AddrPort {
	w.Helper()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		w.Fatal(err)
	}
	own := c.LocalAddr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 100)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(own), from)
		}
	})
	w.Cleanup(func() { c.Close(); wg.Wait() })
	return netip.MustParseAddrPort(own)
}

// call connects and returns the answer and the peer as the client sees it.
func call(network, addr string) (answer, peer string, err error) {
	c, err := net.DialTimeout(network, addr, 2*time.Second)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", "", err
	}
	if network[:3] == "udp" {
		if _, err := c.Write([]byte("hello")); err != nil {
			return "", "", err
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		return string(buf[:n]), peerOf(c), err
	}
	b, err := io.ReadAll(c)
	return string(b), peerOf(c), err
}

// peerOf asks the kernel, not the address that Go remembers.
func peerOf(c net.Conn) string {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err.Error()
	}
	peer := ""
	err = raw.Control(func(fd uintptr) {
		sa, err := unix.Getpeername(int(fd))
		if err != nil {
			peer = err.Error()
			return
		}
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			peer = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
		case *unix.SockaddrInet6:
			peer = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)).String()
		}
	})
	if err != nil {
		return err.Error()
	}
	return peer
}

func refused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

// inPod runs f on a thread in a network namespace of its own, as the sockets
// of a pod are: same cgroup tree, other namespace.
func inPod(t *testing.T, f func()) {
	t.Helper()
	sandbox.NewNamespace(t).Do(func() error { f(); return nil })
}

func key(addr netip.Addr, port uint16, proto inet.Protocol) table.Key {
	return table.Key{Addr: addr, Port: port, Proto: proto}
}

func TestConnectReachesABackendAndShowsTheService(t *testing.T) {
	w := newWorld(t)
	a, b := w.tcpServer("127.0.0.2:0"), w.tcpServer("127.0.0.3:0")
	ua, ub := w.udpServer("127.0.0.2:0"), w.udpServer("127.0.0.3:0")
	w.set(table.Frontend{Key: key(vip, 80, inet.TCP), Backends: []netip.AddrPort{a, b}})
	w.set(table.Frontend{Key: key(vip, 53, inet.UDP), Backends: []netip.AddrPort{ua, ub}})

	for network, want := range map[string][2]netip.AddrPort{"tcp4": {a, b}, "udp4": {ua, ub}} {
		port := "80"
		if network == "udp4" {
			port = "53"
		}
		target := net.JoinHostPort(vip.String(), port)
		seen := map[string]int{}
		for range 100 {
			answer, peer, err := call(network, target)
			if err != nil {
				t.Fatalf("%s: %v", network, err)
			}
			if peer != target {
				t.Fatalf("%s: getpeername says %s, want %s", network, peer, target)
			}
			seen[answer]++
		}
		if len(seen) != 2 || seen[want[0].String()] < 20 || seen[want[1].String()] < 20 {
			t.Errorf("%s: answers came from %v, want both backends alike", network, seen)
		}
	}
}

func TestNoBackendsRefuse(t *testing.T) {
	w := newWorld(t)
	w.set(table.Frontend{Key: key(vip, 80, inet.TCP)})
	w.set(table.Frontend{Key: key(vip, 53, inet.UDP)})
	for network, port := range map[string]string{"tcp4": "80", "udp4": "53", "tcp": "80"} {
		start := time.Now()
		if _, _, err := call(network, net.JoinHostPort(vip.String(), port)); !refused(err) {
			t.Errorf("%s: got %v, want connection refused", network, err)
		}
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("%s: refused after %s", network, d)
		}
	}
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip, 53))); !refused(err) {
		t.Errorf("sendto: got %v, want connection refused", err)
	}
}

func TestUnconnectedUDPKeepsServicesApart(t *testing.T) {
	w := newWorld(t)
	back := w.udpServer("127.0.0.2:0")
	vips := []netip.Addr{vip, vip.Next(), vip.Next().Next()}
	for _, v := range vips {
		w.set(table.Frontend{Key: key(v, 53, inet.UDP), Backends: []netip.AddrPort{back}})
	}
	more := []netip.AddrPort{w.udpServer("127.0.0.3:0"), w.udpServer("127.0.0.4:0"), w.udpServer("127.0.0.5:0")}
	w.set(table.Frontend{Key: key(vip, 54, inet.UDP), Backends: more})

	for _, network := range []string{"udp4", "udp"} {
		c, err := net.ListenPacket(network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		ask := func(to netip.AddrPort) (string, netip.AddrPort) {
			if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(to)); err != nil {
				t.Fatal(err)
			}
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			ap := from.(*net.UDPAddr).AddrPort()
			return string(buf[:n]), netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		}
		// Two services on different backends answer under their names, and a
		// socket stays with its backend.
		first, from := ask(netip.AddrPortFrom(vip, 54))
		if from != netip.AddrPortFrom(vip, 54) {
			t.Errorf("%s: answer from %s", network, from)
		}
		for range 20 {
			if got, _ := ask(netip.AddrPortFrom(vip, 54)); got != first {
				t.Fatalf("%s: moved from %s to %s", network, first, got)
			}
			if _, from := ask(netip.AddrPortFrom(vips[1], 53)); from != netip.AddrPortFrom(vips[1], 53) {
				t.Fatalf("%s: answer of %s came from %s", network, vips[1], from)
			}
		}
		// Its backend leaves: it moves.
		left := []netip.AddrPort{}
		for _, b := range more {
			if b.String() != first {
				left = append(left, b)
			}
		}
		w.set(table.Frontend{Key: key(vip, 54, inet.UDP), Backends: left})
		if got, from := ask(netip.AddrPortFrom(vip, 54)); got == first || from != netip.AddrPortFrom(vip, 54) {
			t.Errorf("%s: still with %s (from %s) after it left", network, got, from)
		}
		w.set(table.Frontend{Key: key(vip, 54, inet.UDP), Backends: more})
	}
}

func TestNodePortAnswersOnNodeAddressesAndOnTheNodesLoopback(t *testing.T) {
	w := newWorld(t)
	a := w.tcpServer("127.0.0.2:0")
	b := w.tcpServer("127.0.0.3:0")
	w.set(table.Frontend{Key: table.Key{Addr: netip.IPv4Unspecified(), Port: 30080, Proto: inet.TCP, Scope: table.AnyNode}, Backends: []netip.AddrPort{a, b}, NodeOwn: true})
	w.set(table.Frontend{Key: table.Key{Addr: other, Port: 30080, Proto: inet.TCP, Scope: table.FromNode}, Backends: []netip.AddrPort{b}})
	w.set(table.Frontend{Key: key(loopback, 30080, inet.TCP), Backends: []netip.AddrPort{a}, NodeOnly: true})
	if err := w.table.SetNodes(map[netip.Addr]bool{nodeAddr: true, other: false}); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string][]string{
		"172.30.0.11:30080": {a.String(), b.String()},
		"172.30.0.12:30080": {b.String()}, // externalTrafficPolicy Local
		"127.0.0.1:30080":   {a.String()},
	} {
		got := map[string]bool{}
		for range 40 {
			answer, peer, err := call("tcp4", addr)
			if err != nil {
				t.Fatalf("%s: %v", addr, err)
			}
			if peer != addr {
				t.Errorf("%s: getpeername says %s", addr, peer)
			}
			got[answer] = true
		}
		for _, one := range want {
			if !got[one] {
				t.Errorf("%s never led to %s", addr, one)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s led to %v, want %v", addr, got, want)
		}
	}
	// A pod's 127.0.0.1 is its own. Another node's port leads it to that
	// node's endpoints, too: its packets would come from outside there.
	inPod(t, func() {
		l, err := net.Listen("tcp4", "127.0.0.1:30080")
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		c, err := net.DialTimeout("tcp4", "127.0.0.1:30080", time.Second)
		if err != nil {
			t.Errorf("a pod's own listener on 127.0.0.1:30080: %v", err)
			return
		}
		c.Close()
		w.set(table.Frontend{Key: table.Key{Addr: other, Port: 30080, Proto: inet.TCP, Scope: table.FromNode}})
		if _, err := net.DialTimeout("tcp4", "172.30.0.12:30080", time.Second); !refused(err) {
			t.Errorf("a pod's call to another node's port without endpoints there: %v, want connection refused", err)
		}
	})
}

func TestAffinityHoldsUntilTimeoutOrTheBackendLeaves(t *testing.T) {
	w := newWorld(t)
	backs := []netip.AddrPort{}
	for i := range 8 {
		backs = append(backs, w.tcpServer(fmt.Sprintf("127.0.0.%d:0", i+2)))
	}
	f := table.Frontend{Key: key(vip, 80, inet.TCP), Backends: backs, Affinity: time.Second}
	w.set(f)
	ask := func() string {
		t.Helper()
		answer, _, err := call("tcp4", "10.96.0.20:80")
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	first := ask()
	for range 30 {
		if got := ask(); got != first {
			t.Fatalf("moved from %s to %s", first, got)
		}
	}
	// Another set with the same backend in it: it stays.
	w.set(table.Frontend{Key: f.Key, Backends: append([]netip.AddrPort{}, backs[1:]...), Affinity: time.Second})
	if first != backs[0].String() {
		if got := ask(); got != first {
			t.Errorf("a change of others moved it from %s to %s", first, got)
		}
	}
	w.set(f)
	// The backend leaves: it moves at once.
	var left []netip.AddrPort
	for _, b := range backs {
		if b.String() != first {
			left = append(left, b)
		}
	}
	w.set(table.Frontend{Key: f.Key, Backends: left, Affinity: time.Second})
	if got := ask(); got == first {
		t.Errorf("still at %s after it left", got)
	}
	w.set(f)
	// After the timeout the choice is free: 8 tries at the same of 8 backends
	// are one in 2 million.
	moved := false
	last := ask()
	for range 8 {
		time.Sleep(1050 * time.Millisecond)
		now := ask()
		if now != last {
			moved = true
			break
		}
	}
	if !moved {
		t.Error("affinity outlived its timeout")
	}
}

func TestAChangingServiceLosesNoConnection(t *testing.T) {
	w := newWorld(t)
	a, b := w.tcpServer("127.0.0.2:0"), w.tcpServer("127.0.0.3:0")
	f := table.Frontend{Key: key(vip, 80, inet.TCP), Backends: []netip.AddrPort{a}}
	w.set(f)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	flips := 0
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if i%2 == 0 {
				f.Backends = []netip.AddrPort{b}
			} else {
				f.Backends = []netip.AddrPort{a, b}
			}
			if _, err := w.table.Set(f); err != nil {
				t.Error(err)
				return
			}
			flips++
		}
	})
	failed := 0
	const n = 5000
	for range n {
		if _, _, err := call("tcp4", "10.96.0.20:80"); err != nil {
			failed++
			t.Log(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d connections, %d changes, %d failed", n, flips, failed)
	if failed > 0 {
		t.Errorf("%d of %d connections failed", failed, n)
	}
}

func TestProgramsAreThoseOfTheNodesFamilies(t *testing.T) {
	for _, c := range []struct {
		name     string
		families []corev1.IPFamily
		want     string
	}{
		{"IPv4, also by sockets of IPv6", families[:1], "getpeername4 getpeername6 recvmsg4 recvmsg6 connect4 connect6 sendmsg4"},
		{"IPv6", families[1:], "getpeername6 recvmsg6 connect6 sendmsg6"},
		{"both", families, "getpeername4 getpeername6 recvmsg4 recvmsg6 connect4 connect6 sendmsg4 sendmsg6"},
	} {
		var got []string
		for _, h := range (&sockets{families: c.families}).wanted() {
			got = append(got, strings.TrimPrefix(h.name, "lb_"))
		}
		if have := strings.Join(got, " "); have != c.want {
			t.Errorf("%s: %s, want %s", c.name, have, c.want)
		}
	}
}
