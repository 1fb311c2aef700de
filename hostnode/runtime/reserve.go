package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
)

// On a disk without a free byte containerd cannot write down that a container
// has ended: nobody can stop it, so nothing on the disk is ever freed, and a
// containerd that starts does not know its containers. A file keeps some room,
// and gives a piece of it at a time when containerd needs one.
const (
	reservePiece = 64 << 10
	reserveBytes = 16 * reservePiece
	// reserveRoom is how much more must be free for it to be filled.
	reserveRoom = 4 * reserveBytes
	// reserveLook is between two looks at the disk during a call that ends a
	// container: as long as containerd waits before it tries again.
	reserveLook = time.Second
)

// reserve is that file.
type reserve struct {
	dir string
	log *slog.Logger
	// missing is set when it is not whole.
	missing atomic.Bool
	mu      sync.Mutex // guards the file
}

func (r *reserve) path() string { return r.dir + "/reserve" }

// open fills it, or gives a piece when the disk is full. Without one, all works
// but on a full disk.
func (r *reserve) open() {
	r.missing.Store(true)
	r.fill()
	r.giveIfFull()
}

// fill makes it whole again if there is room.
func (r *reserve) fill() {
	if !r.missing.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	size, err := r.size()
	free, freeErr := r.free()
	if err = errors.Join(err, freeErr); err == nil && size < reserveBytes {
		if free < reserveRoom {
			return
		}
		err = r.allocate()
	}
	if err != nil {
		r.log.Warn("no reserve for a full disk", "error", err)
	}
	r.missing.Store(false)
}

func (r *reserve) allocate() error {
	f, err := os.OpenFile(r.path(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.WriteAt(make([]byte, reserveBytes), 0)
	}
	return errors.Join(err, f.Close())
}

// giveIfFull gives a piece to a disk that has none.
func (r *reserve) giveIfFull() {
	if free, err := r.free(); err == nil && free < reservePiece {
		r.give()
	}
}

// give makes a piece free, and says whether there was one.
func (r *reserve) give() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	size, err := r.size()
	if err == nil && size == 0 {
		return false
	}
	if err == nil {
		r.missing.Store(true)
		err = os.Truncate(r.path(), max(size-reservePiece, 0))
	}
	if err != nil {
		r.log.Warn("reserve for a full disk not given", "error", err)
		return false
	}
	r.log.Warn("disk full: containerd goes on with a piece of its reserve", "dir", r.dir, "left", max(size-reservePiece, 0))
	return true
}

// shortShare of a disk free, in percent, is where the kubelet begins to evict.
const shortShare = 15

// short says whether the disk is.
func (r *reserve) short() bool {
	var fs unix.Statfs_t
	return unix.Statfs(r.dir, &fs) == nil && fs.Bavail*100 < fs.Blocks*shortShare
}

// freeNow runs the garbage collector if the disk is short. By itself it waits
// after each run, fifty times as long as that took, and the kubelet, which
// looks at the disk once a container is gone, would evict another Pod.
func (s *service) freeNow(ctx context.Context) {
	if s.images.leases == nil || !s.runtime.reserve.short() {
		return
	}
	ctx = namespaces.WithNamespace(ctx, namespace)
	s.runtime.reserve.giveIfFull()
	lease, err := s.images.leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err == nil {
		err = s.images.leases.Delete(ctx, lease, leases.SynchronousDelete)
	}
	if err != nil {
		s.runtime.cfg.Log.Warn("disk short, and its space is not freed at once", "error", err)
	}
}

func (r *reserve) size() (int64, error) {
	info, err := os.Stat(r.path())
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// free is what root can still write.
func (r *reserve) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", r.dir, err)
	}
	return int64(st.Bfree) * st.Frsize, nil
}

// attend gives pieces to a full disk from after on, until the function that it
// returns is called. By then the container is to be dead: as long as it lives it
// might take them.
func (r *reserve) attend(after time.Duration) (end func()) {
	var mu sync.Mutex
	ended := false
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(after+reserveLook, func() {
		r.giveIfFull()
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			timer.Reset(reserveLook)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		timer.Stop()
	}
}

// spend makes a call that frees room in the end, and that a full disk fails
// before. It kills the containers that still run.
func spend[Request, Response any](ctx context.Context, r *reserve, method func(context.Context, Request) (Response, error), request Request) (Response, error) {
	defer r.attend(0)()
	for {
		response, err := call(ctx, method, request)
		if err == nil {
			r.fill()
		}
		if err == nil || !strings.Contains(err.Error(), unix.ENOSPC.Error()) || !r.give() {
			return response, err
		}
	}
}
