package imagestore

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Shares of the file system, in percent: kept images make room when more than
// highUsage is in use, until lowUsage is. They are the kubelet's defaults of
// imageGCHighThresholdPercent and imageGCLowThresholdPercent.
const (
	highUsage = 85
	lowUsage  = 80
)

// Keep takes the images of an archive that a node has pulled into the store,
// so that no other node of the host downloads or unpacks them again. They do
// not become images of other nodes by that: each asks the registry for itself.
// Where the file system is full and nothing can make room, nothing is kept;
// that is an error.
func Keep(ctx context.Context, store string, archive io.Reader) ([]Image, error) {
	if err := makeRoom(store, func() (int, error) { return usage(store) }); err != nil {
		return nil, fmt.Errorf("keep pulled image: %w", err)
	}
	return take(ctx, store, archive, (*index).keep)
}

// keep adds pulled images, unless they were loaded as well. What they were
// pulled as before becomes deleted: a tag that has moved.
func (i *index) keep(images []Image) {
	for _, image := range images {
		i.Pulled = slices.DeleteFunc(i.Pulled, func(old Image) bool {
			if old.Target.Digest == image.Target.Digest {
				return true
			}
			if old.Name == image.Name {
				i.Deleted = append(i.Deleted, old)
				return true
			}
			return false
		})
		loaded := func(other Image) bool { return other.Target.Digest == image.Target.Digest }
		if !slices.ContainsFunc(i.Images, loaded) {
			i.Pulled = append(i.Pulled, image)
		}
	}
}

// makeRoom drops kept images that no node uses, the earliest first, if
// the file system is too full. used tells how full, in percent.
func makeRoom(store string, used func() (int, error)) error {
	unlock, err := lock(store)
	if err != nil {
		return err
	}
	defer unlock()
	full, err := used()
	if err != nil || full <= highUsage {
		return err
	}
	i, err := readIndex(store)
	if err != nil {
		return err
	}
	for _, image := range slices.Clone(i.Pulled) {
		if full <= lowUsage {
			return nil
		}
		held, err := inUse(store, image, i.layersBut(store, image.Target.Digest))
		if err != nil {
			return err
		}
		if held {
			continue
		}
		i.Pulled = slices.DeleteFunc(i.Pulled, func(other Image) bool { return other.Target.Digest == image.Target.Digest })
		if err := writeIndex(store, i); err != nil {
			return err
		}
		if err := sweep(store); err != nil {
			return err
		}
		if full, err = used(); err != nil {
			return err
		}
	}
	if full > highUsage {
		return fmt.Errorf("file system of %s is %d %% full, and nodes use what is kept: free some space there", store, full)
	}
	return nil
}

// layersBut are the directories of layers that stay when a pulled image goes.
func (i *index) layersBut(store string, target digest.Digest) map[string]bool {
	stay := map[string]bool{}
	for _, image := range slices.Concat(i.Images, i.Pulled) {
		if image.Target.Digest == target {
			continue
		}
		for _, chain := range image.Layers {
			stay[layerDir(store, chain)] = true
		}
	}
	return stay
}

// usage is how much of the file system of a directory is in use, in percent,
// as df has it.
func usage(dir string) (int, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("stat file system of %s: %w", dir, err)
	}
	used := fs.Blocks - fs.Bfree
	if used+fs.Bavail == 0 {
		return 0, nil
	}
	return int((used*100 + used + fs.Bavail - 1) / (used + fs.Bavail)), nil
}
