package main

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// serve accepts one connection after another for ever: there is one client.
func serve(on string) error {
	to, err := parseAddress(on)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	port := int(to.Port<<8 | to.Port>>8)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: to.Addr}); err != nil {
		return fmt.Errorf("bind %s: %w", on, err)
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return fmt.Errorf("listen on %s: %w", on, err)
	}
	fmt.Println("listening")
	for {
		c, e := accept(fd)
		switch e {
		case 0:
			answer(c)
			closeSocket(c)
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return fmt.Errorf("accept: %w", e)
		}
	}
}

var bulk [256 << 10]byte

// answer sends back what comes until the client is gone. More than a few
// bytes at once are a stream, of which only the length is sent back.
func answer(fd int) {
	for {
		n, e := read(fd, bulk[:])
		if e != 0 || n == 0 {
			return
		}
		if n > 64 {
			drain(fd, uint64(n))
			return
		}
		if _, e := write(fd, bulk[:n]); e != 0 {
			return
		}
	}
}

// drain reads to the end and says how much it was.
func drain(fd int, total uint64) {
	for {
		n, e := read(fd, bulk[:])
		if e != 0 {
			return
		}
		if n == 0 {
			break
		}
		total += uint64(n)
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], total)
	write(fd, b[:])
}
