// Package sctp has sockets of SCTP for tests: Go's net has none.
package sctp

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Missing says whether the kernel speaks no SCTP.
func Missing() bool {
	fd, err := socket(netip.IPv4Unspecified())
	if err == nil {
		unix.Close(fd)
	}
	return errors.Is(err, unix.EPROTONOSUPPORT)
}

func socket(of netip.Addr) (int, error) {
	family := unix.AF_INET
	if of.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return -1, fmt.Errorf("socket of SCTP: %w", err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Serve answers every association at addr with hello, which is told whose it
// is, and with what comes by it, until stop is closed. It listens when it
// returns.
func Serve(addr netip.AddrPort, stop <-chan struct{}, hello func(client netip.Addr) string) (ended <-chan struct{}, err error) {
	fd, err := socket(addr.Addr())
	if err != nil {
		return nil, err
	}
	// Only so that stop is looked at.
	patience := unix.NsecToTimeval(int64(200 * time.Millisecond))
	for _, step := range []func() error{
		func() error { return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience) },
		func() error { return unix.Bind(fd, sockaddr(addr)) },
		func() error { return unix.Listen(fd, 16) },
	} {
		if err := step(); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("serve SCTP at %s: %w", addr, err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		for {
			select {
			case <-stop:
				return
			default:
			}
			conn, client, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err != nil {
				continue // nobody came
			}
			go answer(os.NewFile(uintptr(conn), "sctp"), hello(addrPort(client).Addr()))
		}
	}()
	return done, nil
}

func answer(conn *os.File, hello string) {
	defer conn.Close()
	if _, err := conn.WriteString(hello + "\n"); err == nil {
		_, _ = io.Copy(onlyWriter{conn}, conn) // until the client is gone
	}
}

// onlyWriter hides what os.File knows to do faster, and SCTP does not.
type onlyWriter struct{ io.Writer }

// connect makes fd non-blocking, and an association: a connect() that blocks
// would be interrupted by the Go runtime's signals.
func connect(fd int, addr netip.AddrPort, deadline time.Time) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	if err := unix.Connect(fd, sockaddr(addr)); !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	for {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(ready, int(time.Until(deadline).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return os.ErrDeadlineExceeded
		}
		failed, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && failed != 0 {
			err = syscall.Errno(failed)
		}
		return err
	}
}

// Call makes an association with addr, sends payload, and returns what the
// server says first and what came back of the payload.
func Call(addr netip.AddrPort, payload []byte, patience time.Duration) (hello string, back []byte, err error) {
	fd, err := socket(addr.Addr())
	if err != nil {
		return "", nil, err
	}
	if err := connect(fd, addr, time.Now().Add(patience)); err != nil {
		unix.Close(fd)
		return "", nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	conn := os.NewFile(uintptr(fd), "sctp")
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", nil, err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(payload)
		sent <- err
	}()
	var all []byte
	buf := make([]byte, 1<<16)
	for end := -1; end < 0 || len(all) < end+len(payload); {
		n, err := conn.Read(buf)
		if err != nil {
			return "", nil, errors.Join(fmt.Errorf("after %d bytes: %w", len(all), err), conn.Close(), <-sent)
		}
		all = append(all, buf[:n]...)
		for i := 0; end < 0 && i < len(all); i++ {
			if all[i] == '\n' {
				hello, end = string(all[:i]), i+1
			}
		}
	}
	return hello, all[len(hello)+1:], <-sent
}
