package listener

import (
	"io"
	"net"
	"testing"
	"time"
)

// patient is how long is waited for what must come, which takes a moment.
const patient = time.Minute

// accepting hands out what a listener accepts.
func accepting(t *testing.T, l net.Listener) <-chan net.Conn {
	t.Helper()
	conns := make(chan net.Conn, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return conns
}

func tcpListener(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func connect(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ends says that the other side ends the connection.
func ends(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(patient))
	_, err := c.Read(make([]byte, 1))
	ne, ok := err.(net.Error)
	return err == io.EOF || !ok || !ne.Timeout()
}

func TestBehindAShutGateSharedConnectionsWaitForSomebodyElse(t *testing.T) {
	l := tcpListener(t)
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.FileListener(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	g := NewGate()
	ours := accepting(t, g.Shared(l))
	connect(t, l)
	select {
	case <-ours:
		t.Fatal("accepted behind a shut gate")
	case <-time.After(50 * time.Millisecond):
	}
	theirs := accepting(t, other)
	select {
	case <-theirs:
	case <-time.After(patient):
		t.Fatal("nobody else gets it")
	}
	other.Close()

	g.Open()
	c := connect(t, l)
	select {
	case <-ours:
	case <-time.After(patient):
		t.Fatal("not accepted through an open gate")
	}
	g.Shut()
	if !ends(c) {
		t.Error("an open connection outlives the shutting")
	}
	late := connect(t, l)
	select {
	case <-ours:
		t.Fatal("accepted behind a gate that was shut again")
	case <-time.After(50 * time.Millisecond):
	}
	g.Open()
	select {
	case <-ours:
	case <-time.After(patient):
		t.Fatal("who waited is forgotten")
	}
	if err := late.SetDeadline(time.Now()); err != nil {
		t.Error(err)
	}
}

func TestBehindAShutGateOwnConnectionsAreRefused(t *testing.T) {
	l := tcpListener(t)
	g := NewGate()
	ours := accepting(t, g.Own(l))
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		if !ends(c) {
			t.Error("a connection is left waiting")
		}
		c.Close()
	}
	g.Open()
	c := connect(t, l)
	select {
	case <-ours:
	case <-time.After(patient):
		t.Fatal("not accepted through an open gate")
	}
	g.Shut()
	if !ends(c) {
		t.Error("an open connection outlives the shutting")
	}
}
