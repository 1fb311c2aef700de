package lifeline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// beat is between two signs of life, silence what without one means that
	// there is none: long enough for a host that is busy with something else.
	beat    = time.Second
	silence = 3 * time.Second
	// writeBound is how long a peer may take to accept a byte.
	writeBound = time.Second
	// maxLines bounds what strangers can make us hold.
	maxLines = 1024
)

const (
	serving = '+'
	away    = '-'
)

// Server shows that this process lives. Use New.
type Server struct {
	identity string
	allowed  []netip.Prefix

	mu sync.Mutex // guards the fields below
	// serves is what is told; changed is closed when it changes.
	serves  bool
	changed chan struct{}
	lines   int
}

// New makes a server that answers who calls from one of the ranges. The
// identity is unique to the process and one word.
func New(identity string, allowed []netip.Prefix) *Server {
	return &Server{identity: identity, allowed: allowed, changed: make(chan struct{})}
}

// Identity is what is told.
func (s *Server) Identity() string { return s.identity }

// SetServing says whether the API server of this process serves.
func (s *Server) SetServing(serves bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serves == serves {
		return
	}
	s.serves = serves
	close(s.changed)
	s.changed = make(chan struct{})
}

// Run answers until ctx ends. It closes l.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	var all sync.WaitGroup
	defer func() {
		stop()
		cancel()
		l.Close()
		all.Wait()
	}()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("lifeline: %w", err)
			}
			// No descriptor is free, or the caller has gone.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if !s.admit(conn) {
			conn.Close()
			continue
		}
		all.Go(func() {
			defer s.leave()
			defer conn.Close()
			s.tell(ctx, conn)
		})
	}
}

func (s *Server) admit(conn net.Conn) bool {
	from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return false
	}
	for _, p := range s.allowed {
		if p.Contains(from.Addr().Unmap()) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.lines >= maxLines {
				return false
			}
			s.lines++
			return true
		}
	}
	return false
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines--
}

func (s *Server) state() (byte, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serves {
		return serving, s.changed
	}
	return away, s.changed
}

// tell writes until the caller has gone: nobody needs to read what it says.
func (s *Server) tell(ctx context.Context, conn net.Conn) {
	text := []byte(s.identity + "\n")
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		state, changed := s.state()
		_ = conn.SetWriteDeadline(time.Now().Add(writeBound))
		if _, err := conn.Write(append(text, state)); err != nil {
			return
		}
		text = nil
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
	}
}
