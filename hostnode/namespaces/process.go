package namespaces

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that a process has ended.
var ErrGone = errors.New("process has ended")

// Process is a process held by descriptor: its number cannot pass to another
// one under our hands. Process 1 of a machine, as the host sees it.
type Process struct {
	PID int
	// StartTime is in clock ticks since boot; with PID it names a process for
	// ever, until the host reboots.
	StartTime uint64
	pidfd     *os.File
}

// Find opens the process pid if it is the one that started at startTime
// (zero: any). ErrGone if it is not.
func Find(pid int, startTime uint64) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &Process{PID: pid, pidfd: os.NewFile(uintptr(fd), "process "+strconv.Itoa(pid))}
	// Read after the open: if the number passed on in between, the time tells.
	p.StartTime, err = startTimeOf(pid)
	if err != nil || p.ended() || (startTime != 0 && p.StartTime != startTime) {
		p.Close()
		return nil, ErrGone
	}
	return p, nil
}

// startTimeOf reads field 22 of /proc/PID/stat.
func startTimeOf(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may contain anything.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time of process %d: short stat", pid)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// ended asks the descriptor without waiting.
func (p *Process) ended() bool {
	ended := true
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return true
	}
	_ = conn.Control(func(fd uintptr) { ended = readable(fd) })
	return ended
}

// readable: a process descriptor becomes readable at the process's end.
func readable(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n == 1
		}
	}
}

// Signal sends sig; ErrGone if there is nobody to get it.
func (p *Process) Signal(sig unix.Signal) error {
	var err error
	conn, connErr := p.pidfd.SyscallConn()
	if connErr == nil {
		connErr = conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	}
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	if err = errors.Join(err, connErr); err != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// Wait returns when the process has ended, and reaps it if it is a child, or
// when ctx ends. One goroutine at a time.
func (p *Process) Wait(ctx context.Context) error {
	_ = p.pidfd.SetReadDeadline(time.Time{}) // of an earlier Wait
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.Read(readable); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	var status syscall.WaitStatus
	_, _ = syscall.Wait4(p.PID, &status, syscall.WNOHANG, nil) // ECHILD: another's child
	return nil
}

// TakeFile duplicates the descriptor fd of the process into this one: how a
// new supervisor gets back the sockets that its predecessor handed over.
func (p *Process) TakeFile(fd int, name string) (*os.File, error) {
	var got int
	var err error
	conn, connErr := p.pidfd.SyscallConn()
	if connErr == nil {
		connErr = conn.Control(func(pidfd uintptr) { got, err = unix.PidfdGetfd(int(pidfd), fd, 0) })
	}
	if err = errors.Join(err, connErr); err != nil {
		return nil, fmt.Errorf("take descriptor %d of process %d: %w", fd, p.PID, err)
	}
	return os.NewFile(uintptr(got), name), nil
}

// Close lets go of the process; it runs on.
func (p *Process) Close() { _ = p.pidfd.Close() }
