package policy

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

// network is two nodes with pods, of both families, in namespaces.
type network struct {
	*testing.T
	nodes []*sandbox.Namespace
	pods  map[string]*testPod
}

// testPod answers TCP and UDP on port 80.
type testPod struct {
	*sandbox.Namespace
	node   int
	v4, v6 netip.Addr
}

func (p *testPod) addrs() []netip.Addr { return []netip.Addr{p.v4, p.v6} }

// nodeAddr is a node's own address.
func nodeAddr(node int) netip.Addr { return netip.AddrFrom4([4]byte{172, 30, 0, byte(10 + node)}) }

func newNetwork(t *testing.T) *network {
	sandbox.Root(t)
	n := &network{T: t, pods: map[string]*testPod{}}
	for range 2 {
		n.nodes = append(n.nodes, newSpace(t))
	}
	sandbox.Cable(t, n.nodes[0], "eth0", n.nodes[1], "eth0")
	for i, node := range n.nodes {
		other := 1 - i
		node.Address("eth0", fmt.Sprintf("%s/24", nodeAddr(i)))
		node.Address("eth0", fmt.Sprintf("fd30::%d/64", 10+i))
		node.Route(fmt.Sprintf("10.244.%d.0/24", other), nodeAddr(other).String(), "eth0", unix.RTN_UNICAST)
		node.Route(fmt.Sprintf("fd00:%d::/64", other), fmt.Sprintf("fd30::%d", 10+other), "eth0", unix.RTN_UNICAST)
	}
	return n
}

// newSpace is a namespace that forwards both families and does not wait to
// find out whether somebody has its addresses.
func newSpace(t *testing.T) *sandbox.Namespace {
	ns := sandbox.NewNamespace(t)
	ns.Do(func() error {
		for file, value := range map[string]string{"all/forwarding": "1", "default/forwarding": "1", "all/accept_dad": "0", "default/accept_dad": "0"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+file, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
	return ns
}

// pod plugs a pod in.
func (n *network) pod(name string, node, number int) *testPod {
	n.Helper()
	p := &testPod{
		Namespace: newSpace(n.T), node: node,
		v4: netip.AddrFrom4([4]byte{10, 244, byte(node), byte(number)}),
		v6: netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", node, number)),
	}
	n.pods[name] = p
	dev := fmt.Sprintf("pod%d", number)
	sandbox.Cable(n.T, n.nodes[node], dev, p.Namespace, "eth0")
	n.nodes[node].Address(dev, "169.254.1.1/32")
	n.nodes[node].Address(dev, "fe80::1/64")
	p.Address("eth0", p.v4.String()+"/32")
	p.Address("eth0", p.v6.String()+"/128")
	p.Route("169.254.1.1/32", "", "eth0", unix.RTN_UNICAST)
	p.Route("0.0.0.0/0", "169.254.1.1", "eth0", unix.RTN_UNICAST)
	p.Route("::/0", "fe80::1", "eth0", unix.RTN_UNICAST)
	n.nodes[node].Route(p.v4.String()+"/32", "", dev, unix.RTN_UNICAST)
	n.nodes[node].Route(p.v6.String()+"/128", "", dev, unix.RTN_UNICAST)
	n.serve(p.Namespace)
	return p
}

// serve answers TCP and UDP on port 80 of a namespace, both families.
func (n *network) serve(ns *sandbox.Namespace) {
	n.Helper()
	var (
		tcp net.Listener
		udp net.PacketConn
	)
	ns.Do(func() (err error) {
		if tcp, err = net.Listen("tcp", ":80"); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", ":80")
		return err
	})
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "hello")
			c.Close()
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 64)
		for {
			k, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			if _, err := udp.WriteTo(buf[:k], from); err != nil {
				return
			}
		}
	}()
	n.Cleanup(func() {
		tcp.Close()
		udp.Close()
		<-done
		<-done
	})
}

// patience is long for what is allowed and short enough for what is not.
const patience = 300 * time.Millisecond

// call says whether an address answers.
func call(from *sandbox.Namespace, protocol string, to netip.Addr) error {
	var answer error
	from.Do(func() error {
		c, err := net.DialTimeout(protocol, netip.AddrPortFrom(to, 80).String(), patience)
		if err != nil {
			answer = err
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if protocol == "udp" {
			if _, err := c.Write([]byte("hello")); err != nil {
				answer = err
				return nil
			}
			_, answer = c.Read(make([]byte, 64))
			return nil
		}
		_, answer = io.ReadAll(c)
		return nil
	})
	return answer
}

// expect checks one way, by TCP and UDP and both families.
func (n *network) expect(what string, from *sandbox.Namespace, to *testPod, allowed bool) {
	n.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		for _, addr := range to.addrs() {
			if err := call(from, protocol, addr); (err == nil) != allowed {
				n.Errorf("%s: %s to %s: %v, want it allowed: %v", what, protocol, addr, err, allowed)
			}
		}
	}
}

// eventually waits until a way is as it should be and says how long that
// took: until an answer, or until the first call without one.
func (n *network) eventually(what string, from *sandbox.Namespace, to netip.Addr, allowed bool) time.Duration {
	n.Helper()
	start := time.Now()
	for {
		began := time.Now()
		if err := call(from, "tcp", to); (err == nil) == allowed {
			if allowed {
				return time.Since(start)
			}
			return began.Sub(start)
		}
		if time.Since(start) > 10*time.Second {
			n.Fatalf("%s: still not so after 10 s", what)
		}
	}
}
