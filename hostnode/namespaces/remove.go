package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// removeRetry spaces the attempts at a directory whose last process has just
// ended: the kernel takes a process out of its cgroup a moment after it
// reports the end, without an event for v1.
const removeRetry = time.Millisecond

// Remove kills everything in path and below and removes the directories, in
// every tree. What is gone is fine.
//
// The kernel ends all of a machine when its first process is killed, and it
// refuses to remove a directory in which a process is left. So one look at the
// machines themselves is enough, as a rule, and the thousands of directories
// of their pods are touched once.
func (hs Hierarchies) Remove(ctx context.Context, path string) error {
	first, err := hs.top(path)
	if err != nil {
		return err
	}
	if err := kill(ctx, first); err != nil {
		return fmt.Errorf("kill machines of cgroup %s: %w", path, err)
	}
	for {
		var busy error
		for _, h := range hs {
			busy = errors.Join(busy, removeTree(filepath.Join(h.Mount, path)))
		}
		if busy == nil {
			return nil
		}
		if err := hs.Kill(ctx, path); err != nil {
			return err
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
	for {
		pids, err := hs.Processes(path)
		if err != nil {
			return err
		}
		pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == os.Getpid() })
		if len(pids) == 0 {
			return nil
		}
		if err := kill(ctx, pids); err != nil {
			return fmt.Errorf("kill processes of cgroup %s: %w", path, err)
		}
	}
}

// kill ends processes and waits for their ends.
func kill(ctx context.Context, pids []int) error {
	var killed []*Process
	defer func() {
		for _, p := range killed {
			p.Close()
		}
	}()
	for _, pid := range pids {
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
	var errs []error
	for _, p := range killed {
		errs = append(errs, p.Wait(ctx))
	}
	return errors.Join(errs...)
}

// top lists the processes of path and of the directories in it, in one tree:
// the first processes of machines. The caller is left out.
func (hs Hierarchies) top(path string) ([]int, error) {
	if len(hs) == 0 {
		return nil, nil
	}
	dir := filepath.Join(hs[0].Mount, path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, gone(err)
	}
	dirs := []string{dir}
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(dir, e.Name()))
		}
	}
	var pids []int
	for _, d := range dirs {
		in, err := processesIn(d)
		if err != nil {
			return nil, err
		}
		pids = append(pids, in...)
	}
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == os.Getpid() }), nil
}

// removeTree removes a cgroup directory and those below it, deepest first.
// The files of a cgroup are no obstacle, so most need no look inside.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return gone(readErr)
	}
	below := false
	for _, entry := range entries {
		if entry.IsDir() {
			below = true
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if below {
		err = unix.Rmdir(dir)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
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
