package switchnat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, "")) }

const (
	hostIP = "172.30.0.2"
	vip1   = "10.96.0.20"
	vip2   = "10.96.0.21"
	lbIP   = "172.31.0.5"
	node1  = "172.30.0.10" // the pods stand behind the nodes' addresses here
	node2  = "172.30.0.11"
	pod1   = "10.244.0.5"
	pod2   = "10.244.1.5"
)

// fabric is a scratch cluster: the host, a switch, two nodes that are pods.
type fabric struct {
	*testing.T
	host, sw, n1, n2 *sandbox.Namespace
	cfg              Config
	table            *table.Table
}

func newFabric(t *testing.T) *fabric {
	sandbox.Root(t)
	f := &fabric{T: t, host: sandbox.NewNamespace(t), sw: sandbox.NewNamespace(t), n1: sandbox.NewNamespace(t), n2: sandbox.NewNamespace(t)}
	sandbox.Cable(t, f.host, "skiff0", f.sw, "host")
	sandbox.Cable(t, f.sw, "n1", f.n1, "eth0")
	sandbox.Cable(t, f.sw, "n2", f.n2, "eth0")
	f.host.Address("skiff0", hostIP+"/32")
	f.host.Route("172.30.0.1/32", "", "skiff0", unix.RTN_UNICAST)
	for _, to := range []string{"172.30.0.0/24", "172.31.0.0/24", "10.96.0.0/16", "10.244.0.0/16"} {
		f.host.Route(to, "172.30.0.1", "skiff0", unix.RTN_UNICAST)
	}
	f.sw.Address("lo", "172.30.0.1/32")
	f.sw.Route(hostIP+"/32", "", "host", unix.RTN_UNICAST)
	f.sw.Route("10.96.0.0/16", "", "lo", unix.RTN_LOCAL)
	for _, n := range []struct {
		ns        *sandbox.Namespace
		dev       string
		ip, podIP string
	}{{f.n1, "n1", node1, pod1}, {f.n2, "n2", node2, pod2}} {
		f.sw.Route(n.ip+"/32", "", n.dev, unix.RTN_UNICAST)
		f.sw.Route(n.podIP+"/32", n.ip, n.dev, unix.RTN_UNICAST)
		n.ns.Address("eth0", n.ip+"/32")
		n.ns.Address("lo", n.podIP+"/32")
		n.ns.Route("172.30.0.1/32", "", "eth0", unix.RTN_UNICAST)
		n.ns.Route("0.0.0.0/0", "172.30.0.1", "eth0", unix.RTN_UNICAST)
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

func (f *fabric) set(addr string, port uint16, proto table.Protocol, backends ...string) {
	f.Helper()
	fe := table.Frontend{Key: table.Key{Addr: netip.IPv4Unspecified(), Scope: table.AnyNode, Port: port, Proto: proto}}
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
			c, err := net.ListenPacket("udp4", addr)
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
					c.WriteTo(append(fmt.Appendf(nil, "%s %s ", addr, from.(*net.UDPAddr).IP), buf[:n]...), from)
				}
			})
			f.Cleanup(func() { c.Close(); wg.Wait() })
			return nil
		}
		l, err := net.Listen("tcp4", addr)
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
					io.Copy(c, c)
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
		if c, err = d.Dial(network+"4", addr); err != nil {
			return nil
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(3 * time.Second))
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
		c.(*net.TCPConn).CloseWrite()
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
		fmt.Sscan(string(answer), &backend, &client, &rest)
		if client != hostIP || rest != "hello" {
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
	f := newFabric(t)
	for _, network := range []string{"tcp", "udp"} {
		f.echo(f.n1, network, pod1+":8080")
		f.echo(f.n2, network, pod2+":8080")
	}
	if err := f.table.SetNodes(map[netip.Addr]bool{netip.MustParseAddr(node1): false, netip.MustParseAddr(node2): false}); err != nil {
		t.Fatal(err)
	}
	for network, proto := range map[string]table.Protocol{"tcp": table.TCP, "udp": table.UDP} {
		f.set(vip1, 80, proto, pod1+":8080", pod2+":8080")
		f.set(lbIP, 80, proto, pod2+":8080")
		f.set("", 30080, proto, pod1+":8080", pod2+":8080")
		f.set(node2, 30081, proto, pod2+":8080")
		f.want(network, vip1+":80", pod1+":8080", pod2+":8080")
		f.want(network, lbIP+":80", pod2+":8080")
		f.want(network, node1+":30080", pod1+":8080", pod2+":8080")
		f.want(network, node2+":30080", pod1+":8080", pod2+":8080")
		f.want(network, node2+":30081", pod2+":8080")
		// What is no service is left alone.
		f.want(network, pod1+":8080", pod1+":8080")
		for _, addr := range []string{vip1 + ":81", vip2 + ":80", node1 + ":30081"} {
			start := time.Now()
			if _, err := f.call(network, addr, 0, []byte("x")); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s %s: %v, want connection refused", network, addr, err)
			}
			if d := time.Since(start); d > 500*time.Millisecond {
				t.Errorf("%s %s: refused after %s", network, addr, d)
			}
		}
		// No endpoints.
		f.set(vip1, 80, proto)
		if _, err := f.call(network, vip1+":80", 0, []byte("x")); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: without endpoints: %v, want connection refused", network, err)
		}
	}
}

func TestLargeTransfersKeepTheirChecksums(t *testing.T) {
	f := newFabric(t)
	f.echo(f.n1, "tcp", pod1+":8080")
	f.echo(f.n1, "udp", pod1+":8080")
	f.set(vip1, 80, table.TCP, pod1+":8080")
	f.set(vip1, 80, table.UDP, pod1+":8080")
	// Segmentation offload one way and the other.
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	answer, err := f.call("tcp", vip1+":80", 0, big)
	if err != nil || !bytes.HasSuffix(answer, big) {
		t.Errorf("2 MB over TCP: got %d bytes, %v", len(answer), err)
	}
	// Fragments.
	for _, size := range []int{1400, 4000, 30000} {
		answer, err := f.call("udp", vip1+":80", 0, big[:size])
		if err != nil || !bytes.HasSuffix(answer, big[:size]) {
			t.Errorf("datagram of %d: got %d bytes, %v", size, len(answer), err)
		}
	}
	// Plain segments, real checksums.
	f.host.Do(func() error { return offloadsOff("skiff0") })
	f.n1.Do(func() error { return offloadsOff("eth0") })
	f.sw.Do(func() error { return errors.Join(offloadsOff("host"), offloadsOff("n1")) })
	answer, err = f.call("tcp", vip1+":80", 0, big)
	if err != nil || !bytes.HasSuffix(answer, big) {
		t.Errorf("2 MB over TCP without offloads: got %d bytes, %v", len(answer), err)
	}
	answer, err = f.call("udp", vip1+":80", 0, big[:4000])
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
	f := newFabric(t)
	f.echo(f.n1, "tcp", pod1+":8080")
	f.set(vip1, 80, table.TCP, pod1+":8080")
	f.set(vip2, 80, table.TCP, pod1+":8080")
	var conns []net.Conn
	f.host.Do(func() error {
		for _, addr := range []string{pod1 + ":8080", vip1 + ":80", vip2 + ":80"} {
			d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{Port: 40000}, Control: reuse}
			c, err := d.Dial("tcp4", addr)
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	})
	for i, c := range conns {
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
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
	f := newFabric(t)
	f.echo(f.n1, "tcp", pod1+":8080")
	f.set(vip1, 80, table.TCP, pod1+":8080")
	for i := range 300 {
		// Few source ports: each comes back soon.
		f.host.Do(func() error {
			d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{Port: 40000 + i%7}, Control: reuse}
			c, err := d.Dial("tcp4", vip1+":80")
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return nil
			}
			defer c.Close()
			if i%2 == 0 {
				c.(*net.TCPConn).SetLinger(0) // RST
			}
			c.SetDeadline(time.Now().Add(2 * time.Second))
			buf := make([]byte, 10)
			if _, err := c.Read(buf); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
			if i%2 == 1 {
				c.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c)
			}
			return nil
		})
	}
	// The last ACK is on its way.
	deadline := time.Now().Add(2 * time.Second)
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
	f := newFabric(t)
	f.echo(f.n1, "tcp", pod1+":8080")
	f.set(vip1, 80, table.TCP, pod1+":8080")
	var c net.Conn
	f.host.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", vip1+":80", 2*time.Second)
		return err
	})
	defer c.Close()
	start := time.Now()
	if err := Load(f.cfg); err != nil {
		t.Fatal(err)
	}
	t.Logf("load: %s", time.Since(start))
	c.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprintln(c, "still-here")
	var backend, client, got string
	if _, err := fmt.Fscan(c, &backend, &client, &got); err != nil || got != "still-here" {
		t.Errorf("got %q, %v", got, err)
	}
	f.want("tcp", vip1+":80", pod1+":8080")
}

func TestUDPFlowMovesWhenItsBackendLeaves(t *testing.T) {
	f := newFabric(t)
	f.echo(f.n1, "udp", pod1+":8080")
	f.echo(f.n2, "udp", pod2+":8080")
	f.set(vip1, 53, table.UDP, pod1+":8080", pod2+":8080")
	ask := func() string {
		t.Helper()
		answer, err := f.call("udp", vip1+":53", 40001, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		var backend string
		fmt.Sscan(string(answer), &backend)
		return backend
	}
	first := ask()
	for range 20 {
		if got := ask(); got != first {
			t.Fatalf("moved from %s to %s", first, got)
		}
	}
	left := pod1 + ":8080"
	if first == left {
		left = pod2 + ":8080"
	}
	f.set(vip1, 53, table.UDP, left)
	if got := ask(); got != left {
		t.Errorf("answered by %s, want %s", got, left)
	}
}

func TestErrorsReachTheClient(t *testing.T) {
	f := newFabric(t)
	// Nobody listens there: the pod answers with "port unreachable" about a
	// packet that the client never sent as it is.
	f.set(vip1, 53, table.UDP, pod1+":9")
	start := time.Now()
	if _, err := f.call("udp", vip1+":53", 0, []byte("x")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v after %s, want connection refused", err, time.Since(start))
	}
	// And the switch about a pod that nobody has.
	f.set(vip1, 54, table.TCP, "10.244.9.9:53")
	if _, err := f.call("tcp", vip1+":54", 0, []byte("x")); !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("got %v, want unreachable", err)
	}
}
