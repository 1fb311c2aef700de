package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// most is how many samples one command may take.
const most = 1 << 16

// answerLine is what call says to a command.
type answerLine struct {
	// Nanoseconds of each operation, and of all of them.
	Samples []uint32 `json:"samples,omitempty"`
	Elapsed int64    `json:"elapsed,omitempty"`
	Bytes   uint64   `json:"bytes,omitempty"`
	// At is when "until" was satisfied, on the machine's monotonic clock.
	At    int64  `json:"at,omitempty"`
	Error string `json:"error,omitempty"`
}

// caller keeps everything that a measurement touches, made beforehand.
type caller struct {
	targets []address
	turn    int
	samples []uint32
}

func obey(in io.Reader, out io.Writer) error {
	c := &caller{samples: make([]uint32, 0, most)}
	for i := range c.samples[:most] {
		c.samples[:most][i] = 1 // touched: no page fault while measuring
	}
	encoder := json.NewEncoder(out)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		answer, err := c.do(strings.Fields(lines.Text()))
		if err != nil {
			answer.Error = err.Error()
		}
		if err := encoder.Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (c *caller) do(words []string) (answerLine, error) {
	if len(words) < 2 {
		return answerLine{}, fmt.Errorf("%q: want a command and its argument", words)
	}
	if words[0] == "targets" {
		return answerLine{}, c.setTargets(words[1:])
	}
	if len(c.targets) == 0 {
		return answerLine{}, fmt.Errorf("%s: no targets", words[0])
	}
	n, err := strconv.Atoi(words[len(words)-1])
	if err != nil || n < 1 || n > most {
		return answerLine{}, fmt.Errorf("%q: want a number from 1 to %d", words, most)
	}
	begin := now()
	var answer answerLine
	switch words[0] {
	case "connect":
		err = c.connections(n)
		answer.Samples = c.samples
	case "exchange":
		err = c.exchanges(n)
		answer.Samples = c.samples
	case "stream":
		answer.Bytes, err = c.stream(time.Duration(n) * time.Millisecond)
	case "until":
		answer.At, err = c.until(words[1] == "up", time.Duration(n)*time.Millisecond)
	default:
		return answerLine{}, fmt.Errorf("%q: no such command", words[0])
	}
	answer.Elapsed = now() - begin
	return answer, err
}

func (c *caller) setTargets(words []string) error {
	c.targets, c.turn = c.targets[:0], 0
	for _, w := range words {
		a, err := parseAddress(w)
		if err != nil {
			return err
		}
		c.targets = append(c.targets, a)
	}
	return nil
}

func (c *caller) next() *address {
	t := &c.targets[c.turn]
	if c.turn++; c.turn == len(c.targets) {
		c.turn = 0
	}
	return t
}

// connections times socket, connect, one byte each way and close.
func (c *caller) connections(n int) error {
	c.samples = c.samples[:0]
	var b [1]byte
	for range n {
		begin := now()
		fd, err := openSocket(0)
		if err != nil {
			return err
		}
		setReset(fd)
		if e := connect(fd, c.next()); e != 0 {
			closeSocket(fd)
			return fmt.Errorf("connect: %w", e)
		}
		if err := exchange(fd, b[:]); err != nil {
			closeSocket(fd)
			return err
		}
		closeSocket(fd)
		c.samples = append(c.samples, uint32(now()-begin))
	}
	return nil
}

// exchanges times one byte each way on one connection.
func (c *caller) exchanges(n int) error {
	c.samples = c.samples[:0]
	fd, err := openSocket(0)
	if err != nil {
		return err
	}
	defer closeSocket(fd)
	setReset(fd)
	if e := connect(fd, c.next()); e != 0 {
		return fmt.Errorf("connect: %w", e)
	}
	var b [1]byte
	for range n {
		begin := now()
		if err := exchange(fd, b[:]); err != nil {
			return err
		}
		c.samples = append(c.samples, uint32(now()-begin))
	}
	return nil
}

func exchange(fd int, b []byte) error {
	if _, e := write(fd, b); e != 0 {
		return fmt.Errorf("write: %w", e)
	}
	n, e := read(fd, b)
	if e != 0 {
		return fmt.Errorf("read: %w", e)
	}
	if n == 0 {
		return fmt.Errorf("read: the server hung up")
	}
	return nil
}

// stream sends for a while and asks how much arrived.
func (c *caller) stream(d time.Duration) (uint64, error) {
	fd, err := openSocket(0)
	if err != nil {
		return 0, err
	}
	defer closeSocket(fd)
	// The host's default may pace (BBR), which measures the pacing.
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"); err != nil {
		return 0, fmt.Errorf("congestion control cubic: %w", err)
	}
	if e := connect(fd, c.next()); e != 0 {
		return 0, fmt.Errorf("connect: %w", e)
	}
	for end := now() + int64(d); now() < end; {
		if _, e := write(fd, bulk[:]); e != 0 {
			return 0, fmt.Errorf("write: %w", e)
		}
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return 0, fmt.Errorf("shutdown: %w", err)
	}
	var b [8]byte
	if n, e := read(fd, b[:]); e != 0 || n != len(b) {
		return 0, fmt.Errorf("read the count: %d bytes, %w", n, e)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}
