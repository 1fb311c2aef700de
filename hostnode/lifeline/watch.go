package lifeline

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

// State of a control plane as a line tells it.
type State int

// The states. Gone is the end of a process, for certain; Silent may be
// anything.
const (
	Silent State = iota
	Gone
	Away
	Serving
)

func (s State) String() string {
	return [...]string{"silent", "gone", "away", "serving"}[s]
}

// Event is a change of State.
type Event struct {
	State State
	// Identity of the process, if one was heard.
	Identity string
}

const (
	// retry is between two tries to connect to a process that is gone or a
	// machine that is cut off. A refused connection costs nothing.
	retry = 100 * time.Millisecond
	// connectBound is how long the answer of a machine on the same host may
	// take.
	connectBound = time.Second
	// late is how late this process may notice that its time is up. Later, it
	// stood still itself (`skiff pause`), and has not listened.
	late = 100 * time.Millisecond
)

// Watch tells every change at address to tell, the first time at the latest
// after silence, until ctx ends. It calls tell from one goroutine.
func Watch(ctx context.Context, address netip.AddrPort, tell func(Event)) {
	last := Event{State: -1}
	say := func(e Event) {
		if e != last {
			last = e
			tell(e)
		}
	}
	heard := time.Now()
	for ctx.Err() == nil {
		if err := hold(ctx, address, func(e Event) {
			heard = time.Now()
			say(e)
		}); ended(err) {
			say(Event{State: Gone, Identity: last.Identity})
		} else if time.Since(heard) >= silence {
			say(Event{State: Silent, Identity: last.Identity})
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

// ended says that the kernel of the other side has answered: nobody is there.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED)
}

// hold holds one line until it ends.
func hold(ctx context.Context, address netip.AddrPort, tell func(Event)) error {
	line, identity, err := open(ctx, address, silence)
	if err != nil {
		return err
	}
	defer line.Close()
	stop := context.AfterFunc(ctx, func() { line.Close() })
	defer stop()
	for {
		state, err := line.next(silence)
		if err != nil {
			return err
		}
		tell(Event{State: state, Identity: identity})
	}
}

// line is an open connection.
type line struct {
	net.Conn
	r *bufio.Reader
}

// open connects and reads the identity within the time.
func open(ctx context.Context, address netip.AddrPort, within time.Duration) (*line, string, error) {
	d := net.Dialer{Timeout: min(within, connectBound), KeepAlive: -1}
	conn, err := d.DialContext(ctx, "tcp", address.String())
	if err != nil {
		return nil, "", err
	}
	l := &line{conn, bufio.NewReaderSize(conn, 256)}
	_ = conn.SetReadDeadline(time.Now().Add(within))
	identity, err := l.r.ReadSlice('\n')
	if err != nil {
		conn.Close()
		// Not wrapped: whose end it was is not known.
		return nil, "", fmt.Errorf("read identity of %s: %v", address, err)
	}
	return l, strings.TrimSuffix(string(identity), "\n"), nil
}

// next is the next sign of life.
func (l *line) next(within time.Duration) (State, error) {
	end := time.Now().Add(within)
	_ = l.SetReadDeadline(end)
	b, err := l.r.ReadByte()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(end) > late:
		return l.next(within) // what has come meanwhile, or will
	case err != nil:
		return Silent, err
	case b == serving:
		return Serving, nil
	default:
		return Away, nil
	}
}

// Ask is the state of the control plane at address, and its identity.
func Ask(ctx context.Context, address netip.AddrPort, within time.Duration) (State, string) {
	l, identity, err := open(ctx, address, within)
	if ended(err) {
		return Gone, ""
	}
	if err != nil {
		return Silent, ""
	}
	defer l.Close()
	state, err := l.next(within)
	if ended(err) {
		return Gone, identity
	}
	return state, identity
}
