package main

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// address is an IPv4 address and port as the kernel takes it.
type address = unix.RawSockaddrInet4

func parseAddress(s string) (address, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil || !ap.Addr().Is4() {
		return address{}, fmt.Errorf("%q: want an IPv4 address and port", s)
	}
	port := ap.Port()
	return address{Family: unix.AF_INET, Port: port<<8 | port>>8, Addr: ap.Addr().As4()}, nil
}

// The calls below tell the Go scheduler nothing: a hand-over to another
// thread and back would be in the figures.

func openSocket(flags int) (int, error) {
	fd, _, e := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, uintptr(unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags), 0)
	if e != 0 {
		return -1, fmt.Errorf("socket: %w", e)
	}
	return int(fd), nil
}

func connect(fd int, to *address) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4)
	return e
}

func accept(fd int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	return int(n), e
}

func read(fd int, b []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), e
}

func write(fd int, b []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), e
}

func closeSocket(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// resetOnClose spares both ends the minute of TIME_WAIT.
var resetOnClose = unix.Linger{Onoff: 1}

func setReset(fd int) {
	unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER,
		uintptr(unsafe.Pointer(&resetOnClose)), unsafe.Sizeof(resetOnClose), 0)
}

var start = time.Now()

// now is for differences: nanoseconds since the program's start.
func now() int64 { return int64(time.Since(start)) }

// monotonic is the time that all processes of the machine share.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // the clock is always there
	}
	return t.Nano()
}
