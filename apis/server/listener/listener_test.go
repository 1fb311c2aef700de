package listener_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apis/server/listener"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestConnectionsOfAllListenersArrive(t *testing.T) {
	a, b := listen(t), listen(t)
	both := listener.Join([]net.Listener{a, b})
	if both.Addr().String() != a.Addr().String() {
		t.Errorf("address %v", both.Addr())
	}
	want := map[string]bool{}
	for _, l := range []net.Listener{b, a, b} {
		want[dial(t, l).LocalAddr().String()] = true
	}
	for range 3 {
		conn, err := both.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := conn.(*net.TCPConn); !ok {
			t.Errorf("%T: keep-alive needs a TCPConn", conn)
		}
		delete(want, conn.RemoteAddr().String())
		conn.Close()
	}
	if len(want) > 0 {
		t.Errorf("not accepted: %v", want)
	}
	if err := both.Close(); err != nil {
		t.Error(err)
	}
	if _, err := both.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	if _, err := net.Dial("tcp", b.Addr().String()); err == nil {
		t.Error("the second listener is still open")
	}
}

// TestNothingIsAcceptedBeforeTheFirstAccept: another server on the same socket
// must get the connections that this one is not ready for.
func TestNothingIsAcceptedBeforeTheFirstAccept(t *testing.T) {
	a, b := listen(t), listen(t)
	both := listener.Join([]net.Listener{a, b})
	defer both.Close()
	dial(t, b)
	time.Sleep(20 * time.Millisecond)
	b.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	conn, err := b.Accept()
	if err != nil {
		t.Fatalf("the connection was taken: %v", err)
	}
	conn.Close()
}
