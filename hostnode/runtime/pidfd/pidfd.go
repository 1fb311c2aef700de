// Package pidfd watches processes by file descriptor: children, and processes
// that an earlier life of this process started. A waiting goroutine holds no
// thread, unlike os.Process.Wait: a node watches a process per pod.
package pidfd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a running or ended process.
type Process struct {
	PID int
	// StartTime is the process's start in clock ticks since boot: with PID it
	// names a process for ever.
	StartTime uint64

	fd *os.File
}

// Start runs a program as a child.
func Start(name string, argv []string, attr *os.ProcAttr) (*Process, error) {
	var sys unix.SysProcAttr
	if attr.Sys != nil {
		sys = *attr.Sys
	}
	fd := -1
	sys.PidFD = &fd
	withFD := *attr
	withFD.Sys = &sys
	child, err := os.StartProcess(name, argv, &withFD)
	if err != nil {
		return nil, err
	}
	pid := child.Pid
	// Wait below reaps; os must not.
	if err := child.Release(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if fd < 0 {
		return nil, fmt.Errorf("start %s: the kernel gave no pidfd", name)
	}
	return adopt(fd, pid)
}

// Open finds the process with this pid and start time. An error that is
// unix.ESRCH says that it has ended.
func Open(pid int, startTime uint64) (*Process, error) {
	p, err := Find(pid)
	if err != nil {
		return nil, err
	}
	if p.StartTime != startTime {
		// The pid was given out again.
		return nil, errors.Join(fmt.Errorf("open pidfd of %d: %w", pid, unix.ESRCH), p.Close())
	}
	return p, nil
}

// Find finds the process that has this pid now; the caller knows that it is
// the right one.
func Find(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	return adopt(fd, pid)
}

func adopt(fd, pid int) (*Process, error) {
	// Non-blocking makes os put it into the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	started, err := startTime(pid)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &Process{PID: pid, StartTime: started, fd: os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(pid))}, nil
}

// startTime reads field 22 of /proc/<pid>/stat.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = unix.ESRCH
		}
		return 0, fmt.Errorf("read start time of %d: %w", pid, err)
	}
	// The name in field 2 may hold blanks and brackets; it ends at the last ')'.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time of %d: %d fields", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// Status tells how a process ended.
type Status struct {
	// Code is the exit code, or 128 + the signal; 255 when it is unknown
	// because the process was not our child.
	Code int
	At   time.Time
}

// Wait blocks until the process has ended, ctx is done or Close is called; it
// reaps a child. One goroutine may wait.
func (p *Process) Wait(ctx context.Context) (Status, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.fd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return Status{}, err
	}
	if err := conn.Read(func(fd uintptr) bool { return ended(int(fd)) }); err != nil {
		return Status{}, errors.Join(ctx.Err(), err)
	}
	status := Status{Code: 255, At: time.Now()}
	var ws unix.WaitStatus
	if pid, err := unix.Wait4(p.PID, &ws, unix.WNOHANG, nil); err == nil && pid == p.PID {
		status.Code = ws.ExitStatus()
		if ws.Signaled() {
			status.Code = 128 + int(ws.Signal())
		}
	}
	return status, nil
}

// ended asks whether the process of a pidfd has ended.
func ended(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// Kill sends a signal; a process that has ended is no error.
func (p *Process) Kill(sig unix.Signal) error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var kill error
	if err := conn.Control(func(fd uintptr) { kill = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(kill, unix.ESRCH) {
		return nil
	}
	return kill
}

// Close lets go of the process.
func (p *Process) Close() error { return p.fd.Close() }
