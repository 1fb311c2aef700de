package listener

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// Gate shuts an API server off from its clients while another one may serve
// them. Behind a shut gate nothing is accepted from a socket that others share,
// what comes to a socket of our own is refused, and open connections end. New
// gates are shut.
type Gate struct {
	mu sync.Mutex // guards the fields below
	// open is closed while the gate is open, and made anew when it shuts.
	open   chan struct{}
	isOpen bool
	conns  map[*gatedConn]struct{}
	shared []*net.TCPListener
}

// NewGate makes a shut one.
func NewGate() *Gate {
	return &Gate{open: make(chan struct{}), conns: map[*gatedConn]struct{}{}}
}

// Own puts a listener behind the gate that nobody else accepts from.
func (g *Gate) Own(l net.Listener) net.Listener {
	return &gated{Listener: l, gate: g, closed: make(chan struct{})}
}

// Shared puts a listener behind the gate that others accept from, too.
func (g *Gate) Shared(l *net.TCPListener) net.Listener {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shared = append(g.shared, l)
	return &gated{Listener: l, gate: g, shared: true, closed: make(chan struct{})}
}

// Open lets clients in.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isOpen {
		return
	}
	g.isOpen = true
	for _, l := range g.shared {
		_ = l.SetDeadline(time.Time{}) // fails when it is closed
	}
	close(g.open)
}

// Shut sends clients away.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen {
		return
	}
	g.isOpen = false
	g.open = make(chan struct{})
	for _, l := range g.shared {
		_ = l.SetDeadline(time.Unix(1, 0)) // ends an Accept in progress
	}
	for c := range g.conns {
		refuse(c.Conn)
	}
	clear(g.conns)
}

// refuse ends a connection so that its client knows at once.
func refuse(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

func (g *Gate) state() (isOpen bool, open <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.isOpen, g.open
}

// pass lets a connection through, or refuses it.
func (g *Gate) pass(conn net.Conn) *gatedConn {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen {
		refuse(conn)
		return nil
	}
	c := &gatedConn{Conn: conn, gate: g}
	g.conns[c] = struct{}{}
	return c
}

// gated is a listener behind a gate.
type gated struct {
	net.Listener
	gate   *Gate
	shared bool

	close  sync.Once
	closed chan struct{}
}

func (l *gated) Accept() (net.Conn, error) {
	for {
		isOpen, open := l.gate.state()
		if l.shared && !isOpen {
			select {
			case <-open:
			case <-l.closed:
				return nil, net.ErrClosed
			}
		}
		conn, err := l.Listener.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue // it was shut, and may be open again
		}
		if err != nil {
			return nil, err
		}
		if c := l.gate.pass(conn); c != nil {
			return c, nil
		}
	}
}

func (l *gated) Close() error {
	l.close.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// gatedConn is forgotten when it is closed.
type gatedConn struct {
	net.Conn
	gate *Gate
}

func (c *gatedConn) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.conns, c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}
