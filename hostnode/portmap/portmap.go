// Package portmap serves kind's extraPortMappings: it accepts on sockets that
// the supervisor opened in the host's network namespace and carries the bytes
// to a port of the node, inside the machine's network namespace.
//
// It runs in the node process, so a connection to the node's address meets
// what listens there: a NodePort, a host-network Pod, a hostPort.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/handover"
)

// udpIdle is how long a UDP client keeps its own socket towards the node
// without traffic; conntrack's default for streams.
const udpIdle = 2 * time.Minute

// Config says what to serve.
type Config struct {
	// NodeIPs are where connections go, one a family, the primary one first:
	// to that of the client's family, or to the first if there is none.
	NodeIPs []netip.Addr
	// Files are the handed-over sockets; those whose names do not start with
	// machinev1alpha1.SocketPortPrefix are left alone.
	Files map[string]*os.File
	Log   *slog.Logger
}

// Run serves all port mappings until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	g, ctx := errgroup.WithContext(ctx)
	for name, f := range cfg.Files {
		rest, ok := strings.CutPrefix(name, machinev1alpha1.SocketPortPrefix)
		if !ok {
			continue
		}
		target, network, err := parseName(cfg.NodeIPs, rest)
		if err != nil {
			return err
		}
		switch network {
		case "tcp":
			l, err := handover.Listener(f)
			if err != nil {
				return err
			}
			g.Go(func() error { return serveTCP(ctx, l, target, cfg.Log) })
		case "udp":
			c, err := handover.PacketConn(f)
			if err != nil {
				return err
			}
			g.Go(func() error { return serveUDP(ctx, c, target, cfg.Log) })
		}
	}
	return g.Wait()
}

// parseName reads "<protocol>/<containerPort>/<index>".
func parseName(nodes []netip.Addr, name string) (t target, network string, err error) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || (parts[0] != "tcp" && parts[0] != "udp") {
		return target{}, "", fmt.Errorf("socket %q: want <tcp|udp>/<port>/<index>", name)
	}
	port, err := strconv.ParseUint(parts[1], 10, 16)
	if err != nil {
		return target{}, "", fmt.Errorf("socket %q: port: %w", name, err)
	}
	return target{nodes, uint16(port)}, parts[0], nil
}

// target is a port of the node.
type target struct {
	nodes []netip.Addr
	port  uint16
}

// forClient is the target on the node's address of the client's family.
func (t target) forClient(client net.Addr) netip.AddrPort {
	chosen := t.nodes[0]
	if c, err := netip.ParseAddrPort(client.String()); err == nil {
		for _, n := range t.nodes {
			if n.Is4() == c.Addr().Unmap().Is4() {
				chosen = n
				break
			}
		}
	}
	return netip.AddrPortFrom(chosen, t.port)
}

func serveTCP(ctx context.Context, l net.Listener, target target, log *slog.Logger) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("port mapping to %d: accept: %w", target.port, err)
		}
		conns.Go(func() {
			target := target.forClient(c.RemoteAddr())
			if err := splice(ctx, c.(*net.TCPConn), target); err != nil {
				log.Debug("port mapping", "target", target, "error", err)
			}
		})
	}
}

// splice joins client and target both ways until both have ended their half.
// Between TCP connections io.Copy is splice(2): no byte enters this process.
func splice(ctx context.Context, client *net.TCPConn, target netip.AddrPort) error {
	defer client.Close()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", target.String())
	if err != nil {
		// A reset tells the client at once that nobody listens.
		return errors.Join(err, client.SetLinger(0))
	}
	server := c.(*net.TCPConn)
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return copyHalf(server, client) })
	g.Go(func() error { return copyHalf(client, server) })
	return g.Wait()
}

func copyHalf(dst, src *net.TCPConn) error {
	_, err := io.Copy(dst, src)
	return errors.Join(err, dst.CloseWrite())
}

// serveUDP gives each client address a socket of its own towards the target,
// so that answers find their way back.
func serveUDP(ctx context.Context, conn net.PacketConn, target target, log *slog.Logger) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var flows sync.WaitGroup
	defer flows.Wait()
	var mu sync.Mutex // guards byClient
	byClient := map[string]net.Conn{}
	buf := make([]byte, 1<<16)
	for {
		n, client, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("port mapping to %d/udp: %w", target.port, err)
		}
		key := client.String()
		mu.Lock()
		flow := byClient[key]
		mu.Unlock()
		if flow == nil {
			if flow, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(target.forClient(client))); err != nil {
				log.Debug("port mapping", "port", target.port, "error", err)
				continue
			}
			mu.Lock()
			byClient[key] = flow
			mu.Unlock()
			flows.Go(func() {
				answer(ctx, conn, client, flow)
				mu.Lock()
				delete(byClient, key)
				mu.Unlock()
			})
		}
		_ = flow.SetReadDeadline(time.Now().Add(udpIdle))
		if _, err := flow.Write(buf[:n]); err != nil {
			log.Debug("port mapping", "port", target.port, "error", err)
		}
	}
}

// answer carries the target's datagrams back until the flow is idle.
func answer(ctx context.Context, conn net.PacketConn, client net.Addr, flow net.Conn) {
	defer flow.Close()
	defer context.AfterFunc(ctx, func() { flow.Close() })()
	buf := make([]byte, 1<<16)
	for {
		n, err := flow.Read(buf)
		if err != nil {
			return
		}
		_ = flow.SetReadDeadline(time.Now().Add(udpIdle))
		if _, err := conn.WriteTo(buf[:n], client); err != nil {
			return
		}
	}
}
