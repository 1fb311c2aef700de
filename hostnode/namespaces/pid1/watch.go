package pid1

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// WatchConfig says whom a watcher watches.
type WatchConfig struct {
	// PID of the first process to watch.
	PID int
	// Marker is a file; the watcher ends when it is gone at the death of the
	// process, instead of starting another.
	Marker string
	// Program is skiff, Cluster the name: together they start the successor.
	// They come apart on the watcher's own command line, so that nobody who
	// looks for supervisors takes the watcher for one.
	Program, Cluster string
}

// Watch waits for the end of a process and starts its successor, with
// back-off, as long as the marker exists. It is the supervisor's second half:
// a process so small that nothing kills it but a person.
func Watch(cfg WatchConfig, log *slog.Logger) error {
	if cfg.Program == "" || cfg.Cluster == "" || cfg.PID <= 0 {
		return errors.New("watch: no program, cluster or process given")
	}
	command := []string{cfg.Program, "supervise", cfg.Cluster}
	var backoff Backoff
	started := time.Now()
	pid := cfg.PID
	for {
		if err := waitProcess(pid); err != nil {
			return err
		}
		if _, err := os.Stat(cfg.Marker); err != nil {
			return nil
		}
		delay := backoff.After(time.Since(started))
		log.Warn("supervisor ended", "pid", pid, "again", delay)
		time.Sleep(delay)
		if _, err := os.Stat(cfg.Marker); err != nil {
			return nil
		}
		started = time.Now()
		var err error
		pid, err = syscall.ForkExec(cfg.Program, command, &syscall.ProcAttr{
			Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return fmt.Errorf("start %s: %w", cfg.Program, err)
		}
		log.Info("supervisor started", "pid", pid)
	}
}

// waitProcess returns when the process has ended; a child is reaped.
func waitProcess(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("watch process %d: %w", pid, err)
		}
		break
	}
	var status syscall.WaitStatus
	_, _ = syscall.Wait4(pid, &status, syscall.WNOHANG, nil) // ECHILD: not ours to reap
	return nil
}
