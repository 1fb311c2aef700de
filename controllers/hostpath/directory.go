package hostpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
)

// directories are the volumes on disk. No name, and no link that a Pod left in
// a volume, leads out of the root.
type directories struct {
	root string
	// mu is held while a directory without a PersistentVolume may exist.
	mu sync.Mutex
}

// create makes the directory if it is missing. Any user may write to it: a
// Pod's user is not known here, and hostPath volumes have no fsGroup.
func (d *directories) create(name string) error {
	return d.in(func(root *os.Root) error {
		err := root.Mkdir(name, 0o777)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return root.Chmod(name, 0o777) // past the umask
	})
}

// erase removes the directory and all in it.
func (d *directories) erase(name string) error {
	return d.in(func(root *os.Root) error { return root.RemoveAll(name) })
}

// sweep removes empty directories that no volume has: what a crash between
// making the directory and creating the PersistentVolume leaves.
func (d *directories) sweep(known func(name string) (bool, error)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	entries, err := os.ReadDir(d.root)
	if err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	return d.in(func(root *os.Root) error {
		for _, e := range entries {
			if !e.IsDir() || !strings.HasPrefix(e.Name(), "pvc-") {
				continue
			}
			keep, err := known(e.Name())
			if err != nil {
				return err
			}
			if !keep {
				_ = root.Remove(e.Name()) // a directory with data stays
			}
		}
		return nil
	})
}

func (d *directories) in(do func(*os.Root) error) error {
	root, err := os.OpenRoot(d.root)
	if err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	return errors.Join(do(root), root.Close())
}
