package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// sweep removes the network namespaces that no adopted sandbox has. CRI makes
// one before it has the sandbox on record with it; a node process that dies in
// between leaves it to nobody, with a mount and perhaps the pod's cable.
func (c *Controller) sweep() error {
	dir := filepath.Join(c.cfg.CRIState, "netns")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep network namespaces: %w", err)
	}
	used := map[string]bool{}
	for _, sb := range c.sandboxes {
		used[sb.netns] = true
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if used[path] {
			continue
		}
		// It may be a mere file: the process died before the mount.
		if err := mount.UnmountAll(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("sweep network namespaces: unmount %s: %w", path, err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("sweep network namespaces: %w", err)
		}
		c.cfg.Log.Info("network namespace removed: the start of its sandbox was cut short", "path", path)
	}
	return nil
}
