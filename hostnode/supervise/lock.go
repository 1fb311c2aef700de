package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockRetry is how often a command looks whether another one has let go of a
// cluster: flock cannot be waited for together with a context.
const lockRetry = 5 * time.Millisecond

// lock takes the lock file path, waiting until ctx ends; unlock removes it.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		f, err := tryLock(path)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if f != nil {
			return func() {
				os.Remove(path) // before the close lets the next one in
				f.Close()
				os.Remove(filepath.Dir(path)) // unless there is more in it
			}, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another skiff command to let go of %s: %w", path, ctx.Err())
		case <-time.After(lockRetry):
		}
	}
}

// tryLock returns nil without an error when another process has the lock.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // the last owner has just removed the directory
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	// The last owner may have removed the file that we have just locked.
	mine, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if there, err := os.Stat(path); err != nil || !os.SameFile(mine, there) {
		f.Close()
		return nil, nil
	}
	return f, nil
}

// lockCluster serializes commands on one cluster, lockHost those that choose
// what clusters must not share.
func (p Paths) lockCluster(ctx context.Context, name string) (func(), error) {
	return lock(ctx, filepath.Join(p.RunDir, "."+name+".lock"))
}

func (p Paths) lockHost(ctx context.Context) (func(), error) {
	return lock(ctx, filepath.Join(p.RunDir, ".host.lock"))
}

// sweepHostLock removes the file that a create leaves which was killed while
// it chose.
func (p Paths) sweepHostLock() {
	path := filepath.Join(p.RunDir, ".host.lock")
	if !exists(path) {
		return
	}
	if f, err := tryLock(path); err == nil && f != nil {
		os.Remove(path)
		f.Close()
	}
}

// lockedRecord is what a command on a published cluster begins with: no other
// one runs on it until unlock. A restore that was killed ends here.
func lockedRecord(ctx context.Context, name string) (p Paths, rec *record, unlock func(), err error) {
	if p, err = DefaultPaths(); err != nil {
		return Paths{}, nil, nil, err
	}
	if unlock, err = p.lockCluster(ctx, name); err != nil {
		return Paths{}, nil, nil, err
	}
	if rec, err = p.readRecord(name); err == nil {
		err = p.replacement(name).settle()
	}
	if err != nil {
		unlock()
		return Paths{}, nil, nil, err
	}
	return p, rec, unlock, nil
}

// lockDirectory waits for a directory that others have for moments only.
func lockDirectory(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}
