package listener

import (
	"errors"
	"net"
	"sync"
)

// joined is several listeners in one. It
// accepts nothing before the first Accept: until then connections wait in
// the kernel, where another server that shares the socket can take them.
type joined struct {
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

// Join returns one listener for all, with the first one's address: upstream's
// server serves only one. Close closes them all.
func Join(all []net.Listener) net.Listener {
	if len(all) == 1 {
		return all[0]
	}
	return &joined{all: all, conns: make(chan accepted), done: make(chan struct{})}
}

// Addr is the first listener's.
func (l *joined) Addr() net.Addr { return l.all[0].Addr() }

func (l *joined) Accept() (net.Conn, error) {
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
func (l *joined) accept(one net.Listener) {
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

func (l *joined) Close() error {
	l.stop.Do(func() { close(l.done) })
	var errs []error
	for _, one := range l.all {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
