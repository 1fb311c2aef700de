package server

import (
	"errors"
	"net"
	"sync"
)

// listener is several listeners in one, as upstream serves only one. It
// accepts nothing before the first Accept: until then connections wait in
// the kernel, where another server that shares the socket can take them.
type listener struct {
	all   []net.Listener
	start sync.Once
	conns chan accepted

	stop sync.Once
	done chan struct{}
}

type accepted struct {
	conn net.Conn
	err  error
}

func newListener(all []net.Listener) net.Listener {
	if len(all) == 1 {
		return all[0]
	}
	return &listener{all: all, conns: make(chan accepted), done: make(chan struct{})}
}

// Addr is the first listener's.
func (l *listener) Addr() net.Addr { return l.all[0].Addr() }

func (l *listener) Accept() (net.Conn, error) {
	l.start.Do(func() {
		for _, one := range l.all {
			go l.accept(one)
		}
	})
	select {
	case a := <-l.conns:
		return a.conn, a.err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// accept ends when one is closed. Other errors go to the server, which
// retries the temporary ones.
func (l *listener) accept(one net.Listener) {
	for {
		conn, err := one.Accept()
		select {
		case l.conns <- accepted{conn, err}:
		case <-l.done:
			if conn != nil {
				conn.Close()
			}
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (l *listener) Close() error {
	l.stop.Do(func() { close(l.done) })
	var errs []error
	for _, one := range l.all {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
