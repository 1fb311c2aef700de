package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

// A connection of the host that outlives its cluster would send again, by the
// host's uplink, what nobody answers any more.
func TestRemoveEndsTheHostsConnections(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	host.AddIPv6(t)
	cfg := configIn(t, host.Netns, "fabrictest", clusters["dual"])
	for _, p := range cfg.All() {
		fabrictest.Watch(t, host.Netns, fabrictest.Uplink, p)
	}
	f := fabric.New(cfg)
	t.Cleanup(func() { must(t, f.Remove(context.WithoutCancel(t.Context()))) })
	ensure(t, f, cfg)

	dial := func(network, address string) (conn net.Conn) {
		must(t, fabric.Do(host.Netns, func() (err error) {
			conn, err = net.Dial(network, address)
			return err
		}))
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	var connections []net.Conn
	for _, ip := range cfg.Nodes[0].IPs {
		listener := listen(t, f.NodeNetns(cfg.Nodes[0].Name), netip.AddrPortFrom(ip, port))
		connections = append(connections, dial("tcp", listener.Addr().String()))
		server, err := listener.Accept()
		must(t, err)
		t.Cleanup(func() { server.Close() })
		connections = append(connections, dial("udp", listener.Addr().String()))
	}
	beyond := listen(t, host.Outside, netip.AddrPortFrom(fabrictest.OutsideAddr, port))
	other := dial("tcp", beyond.Addr().String())

	// Listeners at the host's addresses are the user's: MPTCP ones, as Go's are
	// by default, and plain ones.
	listeners := map[string]*net.TCPListener{}
	must(t, fabric.Do(host.Netns, func() error {
		dev, err := net.InterfaceByName(f.HostDevice())
		if err != nil {
			return err
		}
		addrs, err := dev.Addrs()
		for _, a := range addrs {
			ip, _, _ := net.ParseCIDR(a.String())
			for _, multipath := range []bool{true, false} {
				if ip.IsLinkLocalUnicast() {
					continue
				}
				var lc net.ListenConfig
				lc.SetMultipathTCP(multipath)
				l, err := lc.Listen(t.Context(), "tcp", net.JoinHostPort(ip.String(), "0"))
				if err != nil {
					return err
				}
				t.Cleanup(func() { l.Close() })
				listeners[fmt.Sprintf("%s, MPTCP %t", l.Addr(), multipath)] = l.(*net.TCPListener)
			}
		}
		return err
	}))
	if len(listeners) != 4 {
		t.Fatalf("listeners at the host's addresses: %v, want two in each family", listeners)
	}

	must(t, f.Remove(t.Context()))
	for name, l := range listeners {
		must(t, l.SetDeadline(time.Now().Add(50*time.Millisecond)))
		if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("listener %s after the cluster has gone: %v", name, err)
		}
	}
	for _, c := range connections {
		must(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("%s to %s after its cluster has gone: %v", c.RemoteAddr().Network(), c.RemoteAddr(), err)
		}
	}
	must(t, other.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection that is not the cluster's: %v", err)
	}
}

// listen opens a TCP socket in a namespace that goes with the test.
func listen(t testing.TB, netns string, at netip.AddrPort) (l net.Listener) {
	t.Helper()
	must(t, fabric.Do(netns, func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}
