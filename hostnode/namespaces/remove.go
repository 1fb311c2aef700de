package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// removeRetry spaces the attempts at a directory whose last process has just
// ended: the kernel takes a process out of its cgroup a moment after it
// reports the end, without an event for v1.
const removeRetry = time.Millisecond

// Remove kills everything in path and below and removes the directories, in
// every tree. What is gone is fine.
func (hs Hierarchies) Remove(ctx context.Context, path string) error {
	for {
		if err := hs.Kill(ctx, path); err != nil {
			return err
		}
		var busy error
		for _, h := range hs {
			busy = errors.Join(busy, removeTree(filepath.Join(h.Mount, path)))
		}
		if busy == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), busy)
		case <-time.After(removeRetry):
		}
	}
}

// Kill ends every process in path and below and waits for their ends.
func (hs Hierarchies) Kill(ctx context.Context, path string) error {
	self := os.Getpid()
	for {
		pids, err := hs.Processes(path)
		if err != nil {
			return err
		}
		var killed []*Process
		for _, pid := range pids {
			if pid == self {
				continue
			}
			p, err := Find(pid, 0)
			if errors.Is(err, ErrGone) {
				continue
			}
			if err != nil {
				return err
			}
			killed = append(killed, p)
			if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
				return err
			}
		}
		if len(killed) == 0 {
			return nil
		}
		for _, p := range killed {
			err = errors.Join(err, p.Wait(ctx))
			p.Close()
		}
		if err != nil {
			return fmt.Errorf("kill processes of cgroup %s: %w", path, err)
		}
	}
}

// removeTree removes a cgroup directory and those below it, deepest first.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return gone(err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// RemoveEmpty removes the directory path itself where it is empty: parents
// that several clusters share.
func (hs Hierarchies) RemoveEmpty(path string) {
	for _, h := range hs {
		// Not empty, or gone: both are fine.
		_ = unix.Rmdir(filepath.Join(h.Mount, path))
	}
}

// gone drops the errors of things that disappear while they are looked at.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
