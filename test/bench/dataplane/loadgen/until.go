package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// probeEvery is the pause between two attempts.
	probeEvery = 200 * time.Microsecond
	// probeWait is how long an attempt may take that nobody refuses, as one
	// to an address that is not translated yet: the next one may find it.
	probeWait = 2 * time.Millisecond
)

// until connects again and again until that works, or until it is refused,
// and returns when. For "down" it is enough to fail: what an address without
// endpoints answers differs.
func (c *caller) until(up bool, limit time.Duration) (int64, error) {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("set timer slack: %w", err)
	}
	pause := unix.NsecToTimespec(int64(probeEvery))
	for end := now() + int64(limit); now() < end; {
		ok, err := c.attempt()
		if err != nil {
			return 0, err
		}
		if ok == up {
			return monotonic(), nil
		}
		_ = unix.Nanosleep(&pause, nil) // cut short is as good
	}
	return 0, fmt.Errorf("not within %v", limit)
}

// attempt says whether a connection came about.
func (c *caller) attempt() (bool, error) {
	fd, err := openSocket(unix.SOCK_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer closeSocket(fd)
	setReset(fd)
	switch e := connect(fd, c.next()); e {
	case 0:
		return true, nil
	case unix.EINPROGRESS:
	default:
		return false, nil
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	wait := unix.NsecToTimespec(int64(probeWait))
	n, err := unix.Ppoll(fds, &wait, nil)
	if err != nil || n == 0 {
		return false, nil
	}
	failure, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err == nil && failure == 0, nil
}
