package lb

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// TestStaleUDPSocketsAreEnded: a socket that connected to a backend learns
// that it left; others do not.
func TestStaleUDPSocketsAreEnded(t *testing.T) {
	w := newWorld(t)
	at := backends6(t, 2)
	gone, stays := w.udpServer(at[0]), w.udpServer(at[1])
	const group = 5
	frontend := func(backends ...netip.AddrPort) table.Frontend {
		return table.Frontend{Key: key(vip6, 53, inet.UDP), Backends: backends, Group: group}
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("udp6", netip.AddrPortFrom(vip6, 53).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ask := func(c net.Conn) (string, error) {
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return "", err
		}
		if _, err := c.Write([]byte("x")); err != nil {
			return "", err
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	w.set(frontend(stays))
	kept := dial()
	w.set(frontend(gone))
	w.table.Departed()
	ended := dial()
	if got, err := ask(ended); got != gone.String() {
		t.Fatalf("answered by %q, %v", got, err)
	}
	w.set(frontend(stays))
	left := w.table.Departed()
	if !slices.Equal(left, []table.Departure{{Group: group, Proto: inet.UDP, Backend: gone}}) {
		t.Fatalf("departed: %v, want %s alone", left, gone)
	}
	s := &stale{peers: w.sockets.objects.LbPeers, log: slog.Default()}
	defer s.close()
	if !s.load() {
		t.Skip("this kernel ends no sockets for programs")
	}
	// Another service port's backend of the same address is another one's.
	if n, err := s.end([]table.Departure{{Group: group + 1, Proto: inet.UDP, Backend: gone}}); n != 0 || err != nil {
		t.Errorf("%d sockets ended, %v; want none", n, err)
	}
	start := time.Now()
	n, err := s.end(left)
	if n != 1 || err != nil {
		t.Errorf("%d sockets ended, %v; want 1", n, err)
	}
	t.Logf("ended after %s", time.Since(start))
	if _, err := ask(ended); err == nil || errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("the stale socket: %v, want an error at once", err)
	}
	if got, err := ask(kept); got != stays.String() {
		t.Errorf("the other socket: %q, %v", got, err)
	}
	if got, err := ask(dial()); got != stays.String() {
		t.Errorf("a new socket: %q, %v", got, err)
	}
}

// TestUDPClientsMoveWhenTheirBackendLeaves is the same by the Loader.
func TestUDPClientsMoveWhenTheirBackendLeaves(t *testing.T) {
	c := newCluster(t)
	w := &world{T: t}
	first, second := c.backendOn(w, "udp", "10.244.0.5:8053"), c.backendOn(w, "udp", "10.244.0.6:8053")
	stop := c.start()
	defer stop()
	c.service(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "names"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.7.8", Ports: []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}},
	})
	c.endpoints("names", "dns", corev1.ProtocolUDP, first)
	c.reaches("udp4", "10.96.7.8:53", first)
	conn, err := net.Dial("udp4", "10.96.7.8:53")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c.endpoints("names", "dns", corev1.ProtocolUDP, second)
	start := time.Now()
	for {
		if err := conn.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err := conn.Write([]byte("x"))
		if err == nil {
			_, err = conn.Read(make([]byte, 100))
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !isTimeout(err) {
			t.Logf("%v after %s", err, time.Since(start))
			break
		}
		if time.Since(start) > 5*time.Second {
			t.Fatalf("the socket still is with %s: %v", first, err)
		}
	}
	c.reaches("udp4", "10.96.7.8:53", second)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
