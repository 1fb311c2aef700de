package imagestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// sweep removes what the index does not name, and deleted images that no node
// uses any more. The caller holds the lock.
func sweep(store string) error {
	i, err := readIndex(store)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	mark := func(image Image) {
		for _, blob := range image.Blobs {
			keep[blobFile(store, blob.Digest)] = true
		}
		for _, chain := range image.Layers {
			keep[layerDir(store, chain)] = true
		}
	}
	for _, image := range slices.Concat(i.Images, i.Pulled) {
		mark(image)
	}
	var held []Image
	for _, image := range i.Deleted {
		used, err := inUse(store, image, keep)
		if err != nil {
			return err
		}
		if used {
			held = append(held, image)
		}
	}
	for _, image := range held {
		mark(image)
	}
	if len(held) != len(i.Deleted) {
		i.Deleted = held
		if err := writeIndex(store, i); err != nil {
			return err
		}
	}
	errs := []error{os.RemoveAll(filepath.Join(store, "tmp"))}
	for _, pattern := range []string{"content/blobs/*/*", "layers/*"} {
		found, err := filepath.Glob(filepath.Join(store, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if !keep[path] {
				errs = append(errs, os.RemoveAll(path))
			}
		}
	}
	return errors.Join(errs...)
}

// inUse says whether a node has one of the layers locked that only this image
// keeps.
func inUse(store string, image Image, keep map[string]bool) (bool, error) {
	for _, chain := range image.Layers {
		if keep[layerDir(store, chain)] {
			continue
		}
		f, err := lockLayer(store, chain, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return true, nil
		}
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		f.Close()
	}
	return false, nil
}

// lockLayer locks an unpacked layer until the file is closed.
func lockLayer(store string, chain digest.Digest, how int) (*os.File, error) {
	f, err := os.Open(layerDir(store, chain))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}
