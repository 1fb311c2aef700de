package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// criContainers selects CRI's containers in containerd's records.
const criContainers = `labels."io.cri-containerd.kind"==container`

// dropHalfMade forgets the containers that a node process was making when it
// died, before CRI reads its records: it has them there, but had written no
// status into dir yet, so none was ever started. CRI would show them as ended
// with an error, and a Pod that is not to restart would have failed without
// having run. CRI removes the directories, and the garbage collector the
// snapshots, of containers that are not on record.
func dropHalfMade(ctx context.Context, store containers.Store, dir string, log *slog.Logger) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	all, err := store.List(ctx, criContainers)
	if err != nil {
		return fmt.Errorf("drop half-made containers: %w", err)
	}
	for _, c := range all {
		_, err := os.Stat(filepath.Join(dir, c.ID, "status"))
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("drop half-made containers: %w", err)
		}
		if err := store.Delete(ctx, c.ID); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("drop half-made container %s: %w", c.ID, err)
		}
		log.Info("container forgotten: its making was cut short", "container", c.ID)
	}
	return nil
}
