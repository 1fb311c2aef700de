package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// freezeWait is how long one wait for the kernel's word on a frozen directory
// lasts before the caller's context is looked at.
const freezeWait = 100 * time.Millisecond

// eventsSize is ten times that of a cgroup.events file.
const eventsSize = 256

// Freeze stops every process in path and below where it is, or lets it go on,
// and returns when all of them do. A frozen machine still dies of SIGKILL.
//
// It works in the cgroup2 tree, which every host of machines has and which
// holds every process of a machine, controllers or not: processes that the v1
// freezer holds could not be killed.
func (hs Hierarchies) Freeze(ctx context.Context, path string, frozen bool) error {
	dir, err := hs.unified(path)
	if err != nil {
		return err
	}
	want := map[bool]string{false: "0", true: "1"}[frozen]
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(want), 0); err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", dir, err)
	}
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", dir, err)
	}
	defer events.Close()
	for {
		// A read also acknowledges what it sees: the next change wakes poll.
		text := make([]byte, eventsSize)
		n, err := events.ReadAt(text, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("freeze cgroup %s: %w", dir, err)
		}
		if eventOf(string(text[:n]), "frozen") == want {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("freeze cgroup %s: %w", dir, err)
		}
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(freezeWait.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("freeze cgroup %s: %w", dir, err)
		}
	}
}

// Frozen says whether somebody froze path itself. What does not exist is not
// frozen.
func (hs Hierarchies) Frozen(path string) bool {
	dir, err := hs.unified(path)
	if err != nil {
		return false
	}
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.freeze"))
	return err == nil && strings.TrimSpace(string(data)) == "1"
}

// unified is path in the cgroup2 tree.
func (hs Hierarchies) unified(path string) (string, error) {
	for _, h := range hs {
		if h.Controllers == "" {
			return filepath.Join(h.Mount, path), nil
		}
	}
	return "", errors.New("no cgroup2 tree is mounted")
}

// eventOf is the value of a key in a cgroup.events file.
func eventOf(events, key string) string {
	for line := range strings.Lines(events) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			return f[1]
		}
	}
	return ""
}
