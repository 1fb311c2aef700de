package lb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// turnLook is between two tries to get a lock, which the kernel tells only to
// a thread that waits and cannot be called back. Until then the maps stay as
// they are.
const turnLook = 500 * time.Millisecond

// turn is a lock on a directory. The kernel gives it back when its holder
// dies.
type turn struct{ dir *os.File }

// await returns when it is ours, or with ctx.
func (t *turn) await(ctx context.Context, dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("lock the switch's maps: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			t.dir = f
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return fmt.Errorf("lock the switch's maps: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return ctx.Err()
		case <-time.After(turnLook):
		}
	}
}

func (t *turn) end() {
	if t.dir != nil {
		t.dir.Close()
	}
}
