package switchnat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, "")) }

// addresses are those of one family in a fabric.
type addresses struct {
	name, host, sw     string
	vip1, vip2, lbIP   string
	node1, node2       string // the pods stand behind the nodes' addresses here
	pod1, pod2, nobody string
	services           string
	outside            []string // what the host leads to the switch
	everything         string
	bits               string
}

var (
	v4 = addresses{
		name: "IPv4", host: "172.30.0.2", sw: "172.30.0.1",
		vip1: "10.96.0.20", vip2: "10.96.0.21", lbIP: "172.31.0.5",
		node1: "172.30.0.10", node2: "172.30.0.11",
		pod1: "10.244.0.5", pod2: "10.244.1.5", nobody: "10.244.9.9",
		services: "10.96.0.0/16", everything: "0.0.0.0/0", bits: "/32",
		outside: []string{"172.30.0.0/24", "172.31.0.0/24", "10.96.0.0/16", "10.244.0.0/16"},
	}
	v6 = addresses{
		name: "IPv6", host: "fd00:30::2", sw: "fd00:30::1",
		vip1: "fd00:96::20", vip2: "fd00:96::21", lbIP: "fd00:31::5",
		node1: "fd00:30::10", node2: "fd00:30::11",
		pod1: "fd00:244::5", pod2: "fd00:244:1::5", nobody: "fd00:244:9::9",
		services: "fd00:96::/112", everything: "::/0", bits: "/128",
		outside: []string{"fd00:30::/64", "fd00:31::/64", "fd00:96::/112", "fd00:244::/32"},
	}
)

func at(addr string, port int) string { return net.JoinHostPort(addr, fmt.Sprint(port)) }

// fabric is a scratch cluster: the host, a switch, two nodes that are pods.
type fabric struct {
	*testing.T
	addresses
	host, sw, n1, n2 *sandbox.Namespace
	cfg              Config
	table            *table.Table
}

// eachFamily runs a test in a fabric of each family.
func eachFamily(t *testing.T, test func(*fabric)) {
	sandbox.Root(t)
	for _, a := range []addresses{v4, v6} {
		t.Run(a.name, func(t *testing.T) { test(newFabric(t, a)) })
	}
}

func newFabric(t *testing.T, a addresses) *fabric {
	f := &fabric{T: t, addresses: a, host: sandbox.NewNamespace(t), sw: sandbox.NewNamespace(t), n1: sandbox.NewNamespace(t), n2: sandbox.NewNamespace(t)}
	sandbox.Cable(t, f.host, "skiff0", f.sw, "host")
	sandbox.Cable(t, f.sw, "n1", f.n1, "eth0")
	sandbox.Cable(t, f.sw, "n2", f.n2, "eth0")
	f.host.Address("skiff0", a.host+a.bits)
	f.host.Route(a.sw+a.bits, "", "skiff0", unix.RTN_UNICAST)
	for _, to := range a.outside {
		f.host.Route(to, a.sw, "skiff0", unix.RTN_UNICAST)
	}
	// Of IPv6, each device answers for its own addresses only.
	for _, dev := range []string{"host", "n1", "n2"} {
		f.sw.Address(dev, a.sw+a.bits)
	}
	f.sw.Route(a.host+a.bits, "", "host", unix.RTN_UNICAST)
	f.sw.Route(a.services, "", "lo", unix.RTN_LOCAL)
	for _, n := range []struct {
		ns        *sandbox.Namespace
		dev       string
		ip, podIP string
	}{{f.n1, "n1", a.node1, a.pod1}, {f.n2, "n2", a.node2, a.pod2}} {
		f.sw.Route(n.ip+a.bits, "", n.dev, unix.RTN_UNICAST)
		f.sw.Route(n.podIP+a.bits, n.ip, n.dev, unix.RTN_UNICAST)
		n.ns.Address("eth0", n.ip+a.bits)
		n.ns.Address("lo", n.podIP+a.bits)
		n.ns.Route(a.sw+a.bits, "", "eth0", unix.RTN_UNICAST)
		n.ns.Route(a.everything, a.sw, "eth0", unix.RTN_UNICAST)
	}
	f.cfg = Config{Netns: f.sw.Path(), Device: "host", PinDir: t.TempDir() + "/bpf"}
	if err := Load(f.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Remove(f.cfg); err != nil {
			t.Error(err)
		}
		if err := Remove(f.cfg); err != nil {
			t.Errorf("remove what is gone: %v", err)
		}
		if err := os.Remove(f.cfg.PinDir); err != nil {
			t.Error(err)
		}
	})
	var err error
	if f.table, err = table.Open(f.cfg.PinDir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.table.Close() })
	return f
}

func (f *fabric) set(addr string, port uint16, proto inet.Protocol, backends ...string) {
	f.Helper()
	everyNode := netip.IPv4Unspecified()
	if strings.Contains(f.vip1, ":") {
		everyNode = netip.IPv6Unspecified()
	}
	fe := table.Frontend{Key: table.Key{Addr: everyNode, Scope: table.AnyNode, Port: port, Proto: proto}}
	if addr != "" {
		fe.Addr, fe.Scope = netip.MustParseAddr(addr), table.All
	}
	for _, b := range backends {
		fe.Backends = append(fe.Backends, netip.MustParseAddrPort(b))
	}
	if _, err := f.table.Set(fe); err != nil {
		f.Fatal(err)
	}
}

// echo serves on an address of a namespace: it answers with its address, the
// client's, and what it got.
func (f *fabric) echo(n *sandbox.Namespace, network, addr string) {
	f.Helper()
	var wg sync.WaitGroup
	n.Do(func() error {
		if network == "udp" {
			c, err := net.ListenPacket("udp", addr)
			if err != nil {
				return err
			}
			wg.Go(func() {
				buf := make([]byte, 65536)
				for {
					n, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = c.WriteTo(append(fmt.Appendf(nil, "%s %s ", addr, from.(*net.UDPAddr).IP), buf[:n]...), from)
				}
			})
			f.Cleanup(func() { c.Close(); wg.Wait() })
			return nil
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer c.Close()
					fmt.Fprintf(c, "%s %s ", addr, c.RemoteAddr().(*net.TCPAddr).IP)
					_, _ = io.Copy(c, c) // until the client is gone
				})
			}
		})
		f.Cleanup(func() { l.Close(); wg.Wait() })
		return nil
	})
}

// call sends a payload from the host and returns the answer.
func (f *fabric) call(network, addr string, localPort int, payload []byte) (answer []byte, err error) {
	f.host.Do(func() error {
		d := net.Dialer{Timeout: 2 * time.Second}
		if network == "udp" {
			d.LocalAddr = &net.UDPAddr{Port: localPort}
		} else {
			d.LocalAddr = &net.TCPAddr{Port: localPort}
		}
		var c net.Conn
		if c, err = d.Dial(network, addr); err != nil {
			return nil
		}
		defer c.Close()
		if err = c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			return nil
		}
		if _, err = c.Write(payload); err != nil {
			return nil
		}
		if network == "udp" {
			buf := make([]byte, 65536)
			var n int
			n, err = c.Read(buf)
			answer = buf[:n]
			return nil
		}
		if err = c.(*net.TCPConn).CloseWrite(); err != nil {
			return nil
		}
		answer, err = io.ReadAll(c)
		return nil
	})
	return answer, err
}

func (f *fabric) want(network, addr string, backends ...string) {
	f.Helper()
	seen := map[string]int{}
	for range 30 {
		answer, err := f.call(network, addr, 0, []byte("hello"))
		if err != nil {
			f.Errorf("%s %s: %v", network, addr, err)
			return
		}
		var backend, client, rest string
		if _, err := fmt.Sscan(string(answer), &backend, &client, &rest); err != nil {
			f.Errorf("%s %s: answer %q: %v", network, addr, answer, err)
		}
		if client != f.addresses.host || rest != "hello" {
			f.Errorf("%s %s: answer %q, want one that shows the host's own address", network, addr, answer)
		}
		seen[backend]++
	}
	if len(seen) != len(backends) {
		f.Errorf("%s %s: answered by %v, want %v", network, addr, seen, backends)
	}
	for _, b := range backends {
		if seen[b] == 0 {
			f.Errorf("%s %s: never answered by %s", network, addr, b)
		}
	}
}

func TestHostReachesServices(t *testing.T) {
	eachFamily(t, func(f *fabric) { checkHostReachesServices(f.T, f) })
}

func checkHostReachesServices(t *testing.T, f *fabric) {
	for _, network := range []string{"tcp", "udp"} {
		f.echo(f.n1, network, at(f.pod1, 8080))
		f.echo(f.n2, network, at(f.pod2, 8080))
	}
	if err := f.table.SetNodes(map[netip.Addr]bool{netip.MustParseAddr(f.node1): false, netip.MustParseAddr(f.node2): false}); err != nil {
		t.Fatal(err)
	}
	for network, proto := range map[string]inet.Protocol{"tcp": inet.TCP, "udp": inet.UDP} {
		f.set(f.vip1, 80, proto, at(f.pod1, 8080), at(f.pod2, 8080))
		f.set(f.lbIP, 80, proto, at(f.pod2, 8080))
		f.set("", 30080, proto, at(f.pod1, 8080), at(f.pod2, 8080))
		f.set(f.node2, 30081, proto, at(f.pod2, 8080))
		f.want(network, at(f.vip1, 80), at(f.pod1, 8080), at(f.pod2, 8080))
		f.want(network, at(f.lbIP, 80), at(f.pod2, 8080))
		f.want(network, at(f.node1, 30080), at(f.pod1, 8080), at(f.pod2, 8080))
		f.want(network, at(f.node2, 30080), at(f.pod1, 8080), at(f.pod2, 8080))
		f.want(network, at(f.node2, 30081), at(f.pod2, 8080))
		// What is no service is left alone.
		f.want(network, at(f.pod1, 8080), at(f.pod1, 8080))
		for _, addr := range []string{at(f.vip1, 81), at(f.vip2, 80), at(f.node1, 30081)} {
			start := time.Now()
			if _, err := f.call(network, addr, 0, []byte("x")); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s %s: %v, want connection refused", network, addr, err)
			}
			if d := time.Since(start); d > 500*time.Millisecond {
				t.Errorf("%s %s: refused after %s", network, addr, d)
			}
		}
		// No endpoints.
		f.set(f.vip1, 80, proto)
		if _, err := f.call(network, at(f.vip1, 80), 0, []byte("x")); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: without endpoints: %v, want connection refused", network, err)
		}
	}
}

func TestLargeTransfersKeepTheirChecksums(t *testing.T) {
	eachFamily(t, func(f *fabric) { checkLargeTransfersKeepTheirChecksums(f.T, f) })
}

func checkLargeTransfersKeepTheirChecksums(t *testing.T, f *fabric) {
	f.echo(f.n1, "tcp", at(f.pod1, 8080))
	f.echo(f.n1, "udp", at(f.pod1, 8080))
	f.set(f.vip1, 80, inet.TCP, at(f.pod1, 8080))
	f.set(f.vip1, 80, inet.UDP, at(f.pod1, 8080))
	// Segmentation offload one way and the other.
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	answer, err := f.call("tcp", at(f.vip1, 80), 0, big)
	if err != nil || !bytes.HasSuffix(answer, big) {
		t.Errorf("2 MB over TCP: got %d bytes, %v", len(answer), err)
	}
	// Fragments.
	for _, size := range []int{1400, 4000, 30000} {
		answer, err := f.call("udp", at(f.vip1, 80), 0, big[:size])
		if err != nil || !bytes.HasSuffix(answer, big[:size]) {
			t.Errorf("datagram of %d: got %d bytes, %v", size, len(answer), err)
		}
	}
	// Plain segments, real checksums.
	f.host.Do(func() error { return offloadsOff("skiff0") })
	f.n1.Do(func() error { return offloadsOff("eth0") })
	f.sw.Do(func() error { return errors.Join(offloadsOff("host"), offloadsOff("n1")) })
	answer, err = f.call("tcp", at(f.vip1, 80), 0, big)
	if err != nil || !bytes.HasSuffix(answer, big) {
		t.Errorf("2 MB over TCP without offloads: got %d bytes, %v", len(answer), err)
	}
	answer, err = f.call("udp", at(f.vip1, 80), 0, big[:4000])
	if err != nil || !bytes.HasSuffix(answer, big[:4000]) {
		t.Errorf("datagram without offloads: got %d bytes, %v", len(answer), err)
	}
}

// offloadsOff turns checksum and segmentation offload of a device off.
func offloadsOff(dev string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, cmd := range []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_SRXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
		if err := ethtoolSet(fd, dev, cmd, 0); err != nil {
			return fmt.Errorf("ethtool %s %#x: %w", dev, cmd, err)
		}
	}
	return nil
}

func TestFlowsOfOneSourcePortLiveSideBySide(t *testing.T) {
	eachFamily(t, func(f *fabric) { checkFlowsOfOneSourcePortLiveSideBySide(f.T, f) })
}

func checkFlowsOfOneSourcePortLiveSideBySide(t *testing.T, f *fabric) {
	f.echo(f.n1, "tcp", at(f.pod1, 8080))
	f.set(f.vip1, 80, inet.TCP, at(f.pod1, 8080))
	f.set(f.vip2, 80, inet.TCP, at(f.pod1, 8080))
	var conns []net.Conn
	f.host.Do(func() error {
		for _, addr := range []string{at(f.pod1, 8080), at(f.vip1, 80), at(f.vip2, 80)} {
			d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{Port: 40000}, Control: reuse}
			c, err := d.Dial("tcp", addr)
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	})
	for i, c := range conns {
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "flow-%d\n", i)
	}
	for i, c := range conns {
		var backend, client, got string
		if _, err := fmt.Fscan(c, &backend, &client, &got); err != nil || got != fmt.Sprintf("flow-%d", i) {
			t.Errorf("flow %d got %q, %v", i, got, err)
		}
	}
}

func TestReusedPortsAndEndedFlowsLeaveNothing(t *testing.T) {
	eachFamily(t, func(f *fabric) { checkReusedPortsAndEndedFlowsLeaveNothing(f.T, f) })
}

func checkReusedPortsAndEndedFlowsLeaveNothing(t *testing.T, f *fabric) {
	f.echo(f.n1, "tcp", at(f.pod1, 8080))
	f.set(f.vip1, 80, inet.TCP, at(f.pod1, 8080))
	for i := range 300 {
		// Few source ports: each comes back soon.
		f.host.Do(func() error {
			d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{Port: 40000 + i%7}, Control: reuse}
			c, err := d.Dial("tcp", at(f.vip1, 80))
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return nil
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				return err
			}
			if i%2 == 0 { // RST
				if err := c.(*net.TCPConn).SetLinger(0); err != nil {
					return err
				}
			}
			buf := make([]byte, 10)
			if _, err := c.Read(buf); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
			if i%2 == 1 {
				if err := c.(*net.TCPConn).CloseWrite(); err != nil {
					return err
				}
				if _, err := io.Copy(io.Discard, c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	// The last ACK is on its way.
	deadline := time.Now().Add(time.Minute)
	for {
		flows, replies := f.count(natMapNatFlows), f.count(natMapNatReplies)
		if flows == 0 && replies == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d flows and %d replies left after all connections ended", flows, replies)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestASecondLoadKeepsConnections(t *testing.T) {
	eachFamily(t, func(f *fabric) { checkASecondLoadKeepsConnections(f.T, f) })
}

func checkASecondLoadKeepsConnections(t *testing.T, f *fabric) {
	f.echo(f.n1, "tcp", at(f.pod1, 8080))
	f.set(f.vip1, 80, inet.TCP, at(f.pod1, 8080))
	var c net.Conn
	f.host.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", at(f.vip1, 80), 2*time.Second)
		return err
	})
	defer c.Close()
	start := time.Now()
	if err := Load(f.cfg); err != nil {
		t.Fatal(err)
	}
	t.Logf("load: %s", time.Since(start))
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(c, "still-here")
	var backend, client, got string
	if _, err := fmt.Fscan(c, &backend, &client, &got); err != nil || got != "still-here" {
		t.Errorf("got %q, %v", got, err)
	}
	f.want("tcp", at(f.vip1, 80), at(f.pod1, 8080))
}

func TestUDPFlowMovesWhenItsBackendLeaves(t *testing.T) {
	eachFamily(t, func(f *fabric) { checkUDPFlowMovesWhenItsBackendLeaves(f.T, f) })
}

func checkUDPFlowMovesWhenItsBackendLeaves(t *testing.T, f *fabric) {
	f.echo(f.n1, "udp", at(f.pod1, 8080))
	f.echo(f.n2, "udp", at(f.pod2, 8080))
	f.set(f.vip1, 53, inet.UDP, at(f.pod1, 8080), at(f.pod2, 8080))
	ask := func() string {
		t.Helper()
		answer, err := f.call("udp", at(f.vip1, 53), 40001, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		var backend string
		if _, err := fmt.Sscan(string(answer), &backend); err != nil {
			t.Fatal(err)
		}
		return backend
	}
	first := ask()
	for range 20 {
		if got := ask(); got != first {
			t.Fatalf("moved from %s to %s", first, got)
		}
	}
	left := at(f.pod1, 8080)
	if first == left {
		left = at(f.pod2, 8080)
	}
	f.set(f.vip1, 53, inet.UDP, left)
	if got := ask(); got != left {
		t.Errorf("answered by %s, want %s", got, left)
	}
}

func TestErrorsReachTheClient(t *testing.T) {
	eachFamily(t, func(f *fabric) { checkErrorsReachTheClient(f.T, f) })
}

func checkErrorsReachTheClient(t *testing.T, f *fabric) {
	// Nobody listens there: the pod answers with "port unreachable" about a
	// packet that the client never sent as it is.
	f.set(f.vip1, 53, inet.UDP, at(f.pod1, 9))
	start := time.Now()
	if _, err := f.call("udp", at(f.vip1, 53), 0, []byte("x")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v after %s, want connection refused", err, time.Since(start))
	}
	// And the switch about a pod that nobody has.
	f.set(f.vip1, 54, inet.TCP, at(f.nobody, 53))
	if _, err := f.call("tcp", at(f.vip1, 54), 0, []byte("x")); !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("got %v, want unreachable", err)
	}
}

func TestFlowsAndAffinitiesOfABackendThatLeftGo(t *testing.T) {
	eachFamily(t, func(f *fabric) {
		f.echo(f.n1, "udp", at(f.pod1, 8080))
		set := func(group uint32, vip string, backends ...string) {
			f.Helper()
			fe := table.Frontend{Key: table.Key{Addr: netip.MustParseAddr(vip), Port: 53, Proto: inet.UDP}, Affinity: time.Hour, Group: group}
			for _, b := range backends {
				fe.Backends = append(fe.Backends, netip.MustParseAddrPort(b))
			}
			if _, err := f.table.Set(fe); err != nil {
				f.Fatal(err)
			}
		}
		set(1, f.vip1, at(f.pod1, 8080))
		set(2, f.vip2, at(f.pod1, 8080))
		for port := range 5 {
			for _, vip := range []string{f.vip1, f.vip2} {
				if _, err := f.call("udp", at(vip, 53), 41000+port, []byte("x")); err != nil {
					f.Fatal(err)
				}
			}
		}
		flows, err := OpenFlows(f.cfg.PinDir)
		if err != nil {
			f.Fatal(err)
		}
		defer flows.Close()
		if n, err := flows.Count(); n != 10 || err != nil {
			f.Errorf("%d flows, %v; want 10", n, err)
		}
		set(1, f.vip1, at(f.pod2, 8080))
		gone := f.table.Departed()
		if len(gone) != 1 || gone[0].Group != 1 {
			f.Fatalf("departed: %v, want the one backend of group 1", gone)
		}
		if n, err := flows.Forget(gone); n != 5 || err != nil {
			f.Errorf("%d flows forgotten, %v; want 5", n, err)
		}
		if n, err := f.table.ForgetAffinities(gone); n != 1 || err != nil {
			f.Errorf("%d affinities forgotten, %v; want 1", n, err)
		}
		if err := f.table.CountForgotten(5); err != nil {
			f.Error(err)
		}
		if n := f.count(natMapNatReplies); n != 5 {
			f.Errorf("%d replies left, want 5", n)
		}
		left, err := flows.Count()
		if left != 5 || err != nil {
			f.Errorf("%d flows left, %v; want 5", left, err)
		}
		s, err := f.table.Stats()
		if err != nil || s.Counters[table.NATOpened] != 10 || s.Evictions(left) != 0 || s.Maps["lb_affinities"].Entries != 1 {
			f.Errorf("%+v with %d evictions, %v; want 10 opened, none evicted, one affinity", s, s.Evictions(left), err)
		}
		// The flows of others go on.
		if _, err := f.call("udp", at(f.vip2, 53), 41000, []byte("x")); err != nil {
			f.Errorf("the other service: %v", err)
		}
	})
}

func TestSourceRangesAreForTheClientsAddress(t *testing.T) {
	eachFamily(t, func(f *fabric) {
		f.echo(f.n1, "tcp", at(f.pod1, 8080))
		open := func(from string) {
			f.Helper()
			fe := table.Frontend{
				Key:      table.Key{Addr: netip.MustParseAddr(f.lbIP), Port: 80, Proto: inet.TCP},
				Backends: []netip.AddrPort{netip.MustParseAddrPort(at(f.pod1, 8080))},
				Sources:  []netip.Prefix{netip.MustParsePrefix(from)},
			}
			if _, err := f.table.Set(fe); err != nil {
				f.Fatal(err)
			}
		}
		open(f.addresses.host + f.bits)
		f.want("tcp", at(f.lbIP, 80), at(f.pod1, 8080))
		open(f.node1 + f.bits)
		var timeout net.Error
		f.host.Do(func() error {
			_, err := net.DialTimeout("tcp", at(f.lbIP, 80), 300*time.Millisecond)
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				f.Errorf("a client in no range: %v, want silence, as upstream drops", err)
			}
			return nil
		})
		s, err := f.table.Stats()
		if err != nil || s.Counters[table.RefusedSource] == 0 {
			f.Errorf("%v, %v: no refusal counted", s.Counters, err)
		}
	})
}
