package lb

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

var (
	vip6      = netip.MustParseAddr("fd00:96::20")
	nodeAddr6 = netip.MustParseAddr("fd00:30::11")
	other6    = netip.MustParseAddr("fd00:30::12")
)

// backends6 are addresses of IPv6 that servers of a test may have.
func backends6(t *testing.T, n int) []string {
	var out []string
	for i := range n {
		addr := fmt.Sprintf("fd00:244::%x", i+2)
		sandbox.Address(t, "lo", addr+"/128")
		out = append(out, net.JoinHostPort(addr, "0"))
	}
	return out
}

func TestIPv6SocketsReachABackendAndSeeTheService(t *testing.T) {
	w := newWorld(t)
	at := backends6(t, 2)
	tcp := []netip.AddrPort{w.tcpServer(at[0]), w.tcpServer(at[1])}
	udp := []netip.AddrPort{w.udpServer(at[0]), w.udpServer(at[1])}
	w.set(table.Frontend{Key: key(vip6, 80, inet.TCP), Backends: tcp})
	w.set(table.Frontend{Key: key(vip6, 53, inet.UDP), Backends: udp})
	for network, want := range map[string][]netip.AddrPort{"tcp6": tcp, "udp6": udp} {
		target := netip.AddrPortFrom(vip6, 80).String()
		if network == "udp6" {
			target = netip.AddrPortFrom(vip6, 53).String()
		}
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
	// Without endpoints.
	w.set(table.Frontend{Key: key(vip6, 80, inet.TCP)})
	w.set(table.Frontend{Key: key(vip6, 53, inet.UDP)})
	for network, port := range map[string]uint16{"tcp6": 80, "udp6": 53} {
		start := time.Now()
		if _, _, err := call(network, netip.AddrPortFrom(vip6, port).String()); !refused(err) || time.Since(start) > 100*time.Millisecond {
			t.Errorf("%s: %v after %s, want connection refused at once", network, err, time.Since(start))
		}
	}
}

func TestUnconnectedIPv6SocketsKeepServicesApart(t *testing.T) {
	w := newWorld(t)
	at := backends6(t, 4)
	one := w.udpServer(at[0])
	more := []netip.AddrPort{w.udpServer(at[1]), w.udpServer(at[2]), w.udpServer(at[3])}
	w.set(table.Frontend{Key: key(vip6, 53, inet.UDP), Backends: []netip.AddrPort{one}})
	w.set(table.Frontend{Key: key(vip6.Next(), 53, inet.UDP), Backends: more})
	c, err := net.ListenPacket("udp6", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	ask := func(to netip.AddrPort) string {
		t.Helper()
		if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got := from.(*net.UDPAddr).AddrPort(); got != to {
			t.Fatalf("the answer of %s came from %s", to, got)
		}
		return string(buf[:n])
	}
	second := netip.AddrPortFrom(vip6.Next(), 53)
	first := ask(second)
	for range 20 {
		if got := ask(netip.AddrPortFrom(vip6, 53)); got != one.String() {
			t.Fatalf("answered by %s, want %s", got, one)
		}
		if got := ask(second); got != first {
			t.Fatalf("moved from %s to %s", first, got)
		}
	}
	// Its backend terminates and still serves: the flow stays.
	left := slices.DeleteFunc(slices.Clone(more), func(b netip.AddrPort) bool { return b.String() == first })
	w.set(table.Frontend{Key: key(vip6.Next(), 53, inet.UDP), Backends: left, Keep: []netip.AddrPort{netip.MustParseAddrPort(first)}})
	if got := ask(second); got != first {
		t.Errorf("moved from %s, which still serves, to %s", first, got)
	}
	for range 10 {
		if answer, _, err := call("udp6", second.String()); err != nil || answer == first {
			t.Errorf("a new flow went to %q, which terminates: %v", answer, err)
		}
	}
	// Affinity and source ranges are for new flows.
	w.set(table.Frontend{
		Key: key(vip6.Next(), 53, inet.UDP), Backends: more, Affinity: time.Hour, Sources: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")},
	})
	for range 10 {
		if got := ask(second); got != first {
			t.Fatalf("moved from %s to %s", first, got)
		}
	}
	if _, _, err := call("udp6", second.String()); !errors.Is(err, unix.EPERM) {
		t.Errorf("a new flow of a client in no range: %v, want operation not permitted", err)
	}
	// It is gone: the flow moves.
	w.set(table.Frontend{Key: key(vip6.Next(), 53, inet.UDP), Backends: left})
	if got := ask(second); got == first {
		t.Errorf("still with %s after it left", first)
	}
}

func TestNodePortsOfBothFamiliesAreApart(t *testing.T) {
	w := newWorld(t)
	four, six := w.tcpServer("127.0.0.2:0"), w.tcpServer(backends6(t, 1)[0])
	w.set(table.Frontend{Key: table.Key{Addr: netip.IPv4Unspecified(), Port: 30080, Proto: inet.TCP, Scope: table.AnyNode}, Backends: []netip.AddrPort{four}})
	w.set(table.Frontend{Key: table.Key{Addr: netip.IPv6Unspecified(), Port: 30080, Proto: inet.TCP, Scope: table.AnyNode}, Backends: []netip.AddrPort{six}, NodeOwn: true})
	w.set(table.Frontend{Key: table.Key{Addr: other6, Port: 30080, Proto: inet.TCP, Scope: table.FromNode}})
	w.set(table.Frontend{Key: key(netip.IPv6Loopback(), 30080, inet.TCP), Backends: []netip.AddrPort{six}, NodeOnly: true})
	if err := w.table.SetNodes(map[netip.Addr]bool{nodeAddr: true, other: false, nodeAddr6: true, other6: false}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr netip.Addr
		want netip.AddrPort
	}{{nodeAddr, four}, {other, four}, {nodeAddr6, six}, {netip.IPv6Loopback(), six}} {
		target := netip.AddrPortFrom(c.addr, 30080).String()
		if answer, peer, err := call("tcp", target); err != nil || answer != c.want.String() || peer != target {
			t.Errorf("%s: %q from %s, %v; want %s", target, answer, peer, err, c.want)
		}
	}
	// externalTrafficPolicy Local: the other node has none.
	if _, _, err := call("tcp", netip.AddrPortFrom(other6, 30080).String()); !refused(err) {
		t.Errorf("another node's port without endpoints there: %v, want connection refused", err)
	}
	// What asks for every address is no node's.
	inPod(t, func() {
		for _, addr := range []string{"0.0.0.0:30080", "[::]:30080"} {
			if _, _, err := call("tcp", addr); !refused(err) {
				t.Errorf("%s in a pod: %v, want connection refused", addr, err)
			}
		}
	})
}

func TestSourceRangesKnowThePodsAddresses(t *testing.T) {
	w := newWorld(t)
	four, six := w.tcpServer("127.0.0.2:0"), w.tcpServer(backends6(t, 1)[0])
	lb4, lb6 := netip.MustParseAddr("172.31.0.5"), netip.MustParseAddr("fd00:31::5")
	w.set(table.Frontend{Key: key(lb4, 80, inet.TCP), Backends: []netip.AddrPort{four}, Sources: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("192.0.2.9/32")}})
	w.set(table.Frontend{Key: key(lb6, 80, inet.TCP), Backends: []netip.AddrPort{six}, Sources: []netip.Prefix{netip.MustParsePrefix("fd00:244:1::/64")}})
	self := mustCookie(t)
	for _, c := range []struct {
		name         string
		id           table.Identity
		four6, four4 bool
	}{
		{"of neither range", table.Identity{V4: netip.MustParseAddr("10.244.2.5"), V6: netip.MustParseAddr("fd00:244:2::5")}, false, false},
		{"of the IPv4 range", table.Identity{V4: netip.MustParseAddr("10.244.1.5"), V6: netip.MustParseAddr("fd00:244:2::5")}, false, true},
		{"the one address", table.Identity{V4: netip.MustParseAddr("192.0.2.9")}, false, true},
		{"of the IPv6 range", table.Identity{V6: netip.MustParseAddr("fd00:244:1::5")}, true, false},
		{"of both", table.Identity{V4: netip.MustParseAddr("10.244.1.5"), V6: netip.MustParseAddr("fd00:244:1::5")}, true, true},
		{"unknown", table.Identity{}, false, false},
	} {
		if err := w.table.SetIdentity(self, c.id); err != nil {
			t.Fatal(err)
		}
		for addr, may := range map[netip.Addr]bool{lb4: c.four4, lb6: c.four6} {
			_, _, err := call("tcp", netip.AddrPortFrom(addr, 80).String())
			if may != (err == nil) || (!may && !errors.Is(err, unix.EPERM)) {
				t.Errorf("a client that is %s at %s: %v, want allowed %v", c.name, addr, err, may)
			}
		}
	}
	s, err := w.table.Stats()
	if err != nil || s.Counters[table.RefusedSource] != 7 {
		t.Errorf("%d refusals for their source counted, want 7; %v", s.Counters[table.RefusedSource], err)
	}
}

// TestLargeSetsAreSearched: affinity looks a backend up among many.
func TestLargeSetsAreSearched(t *testing.T) {
	w := newWorld(t)
	live := w.tcpServer(backends6(t, 1)[0])
	all := []netip.AddrPort{live}
	for i := range 1000 {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 5: byte(i), 14: byte(i >> 8), 15: byte(i * 7)}), uint16(i+1)))
	}
	w.set(table.Frontend{Key: key(vip6, 80, inet.TCP), Backends: []netip.AddrPort{live}, Affinity: time.Hour, Group: 7})
	if answer, _, err := call("tcp6", netip.AddrPortFrom(vip6, 80).String()); err != nil || answer != live.String() {
		t.Fatalf("%q, %v", answer, err)
	}
	for n := 1; n <= len(all); n += 37 {
		w.set(table.Frontend{Key: key(vip6, 80, inet.TCP), Backends: all[:n], Affinity: time.Hour, Group: 7})
		if answer, _, err := call("tcp6", netip.AddrPortFrom(vip6, 80).String()); err != nil || answer != live.String() {
			t.Fatalf("among %d backends: %q, %v; want %s to be found", n, answer, err, live)
		}
	}
	// The same client at another address of the service port stays, too.
	w.set(table.Frontend{Key: key(vip6.Next(), 80, inet.TCP), Backends: all, Affinity: time.Hour, Group: 7})
	if answer, _, err := call("tcp6", netip.AddrPortFrom(vip6.Next(), 80).String()); err != nil || answer != live.String() {
		t.Errorf("at the other address: %q, %v; want %s", answer, err, live)
	}
}

// TestAPodReachesItselfByItsService: the way leads back into the pod, and it
// sees its own address.
func TestAPodReachesItselfByItsService(t *testing.T) {
	w := newWorld(t)
	pod := sandbox.NewNamespace(t)
	for _, c := range []struct{ addr, service string }{{"10.244.9.9", "10.96.9.9:80"}, {"fd00:244:9::9", "[fd00:96::9]:80"}} {
		bits := "/32"
		if netip.MustParseAddr(c.addr).Is6() {
			bits = "/128"
		}
		pod.Address("lo", c.addr+bits)
		pod.Do(func() error {
			l, err := net.Listen("tcp", net.JoinHostPort(c.addr, "0"))
			if err != nil {
				return err
			}
			defer l.Close()
			to := netip.MustParseAddrPort(c.service)
			w.set(table.Frontend{Key: key(to.Addr(), to.Port(), inet.TCP), Backends: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}})
			out, err := net.DialTimeout("tcp", c.service, time.Second)
			if err != nil {
				t.Errorf("%s: %v", c.service, err)
				return nil
			}
			defer out.Close()
			in, err := l.Accept()
			if err != nil {
				return err
			}
			defer in.Close()
			if from := in.RemoteAddr().(*net.TCPAddr).IP.String(); from != c.addr {
				t.Errorf("%s: the pod saw %s, want its own %s", c.service, from, c.addr)
			}
			return nil
		})
	}
}
