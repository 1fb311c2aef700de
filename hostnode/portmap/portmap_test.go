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
	"syscall"
	"testing"
	"time"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func TestTCPIsCarriedBothWaysWithHalfClose(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				all, _ := io.ReadAll(c) // ends with the client's half
				fmt.Fprintf(c, "got %d bytes", len(all))
				c.Close()
			}()
		}
	}()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, "tcp", echo.Addr().(*net.TCPAddr).Port, fileOf(t, front.(*net.TCPListener)))

	c, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	front.Close()
	fmt.Fprint(c, "0123456789")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "got 10 bytes" {
		t.Errorf("answer %q, %v", got, err)
	}
}

func TestTCPToAClosedPortIsReset(t *testing.T) {
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, "tcp", 1, fileOf(t, front.(*net.TCPListener)))
	c, err := net.Dial("tcp", front.Addr().String())
	if errors.Is(err, syscall.ECONNRESET) {
		return // the reset was faster than the return of connect
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("read: %v, want the connection ended at once", err)
	}
}

func TestUDPAnswersFindTheirClient(t *testing.T) {
	echo, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(append([]byte("re: "), buf[:n]...), from)
		}
	}()
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, "udp", echo.LocalAddr().(*net.UDPAddr).Port, fileOf(t, front.(*net.UDPConn)))
	for i := range 3 {
		c, err := net.Dial("udp", front.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "client %d", i)
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if want := fmt.Sprintf("re: client %d", i); err != nil || string(buf[:n]) != want {
			t.Errorf("answer %q, %v; want %q", buf[:n], err, want)
		}
		c.Close()
	}
}

func fileOf(t *testing.T, s interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// serve runs the mapping to a port of 127.0.0.1 until the test ends.
func serve(t *testing.T, protocol string, port int, f *os.File) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	name := fmt.Sprintf("%s%s/%d/0", machinev1alpha1.SocketPortPrefix, protocol, port)
	go func() {
		done <- Run(ctx, Config{
			NodeIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			Files:   map[string]*os.File{name: f},
			Log:     slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestConnectionsGoToTheAddressOfTheClientsFamily(t *testing.T) {
	v4, v6 := netip.MustParseAddr("172.30.0.10"), netip.MustParseAddr("fd00::a")
	for name, c := range map[string]struct {
		nodes        []netip.Addr
		client, want string
	}{
		"an IPv4 client":                     {[]netip.Addr{v4, v6}, "127.0.0.1:1", "172.30.0.10:80"},
		"an IPv6 client":                     {[]netip.Addr{v4, v6}, "[::1]:1", "[fd00::a]:80"},
		"an IPv4 client at an IPv6 listener": {[]netip.Addr{v6, v4}, "[::ffff:127.0.0.1]:1", "172.30.0.10:80"},
		"a family that the node has not":     {[]netip.Addr{v6}, "127.0.0.1:1", "[fd00::a]:80"},
	} {
		client := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.client))
		if got := (target{c.nodes, 80}).forClient(client).String(); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}
