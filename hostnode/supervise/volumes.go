package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// volumesDir is the directory of a cluster, whose own directory is given, that
// has a directory for each volume of StorageClass standard.
func volumesDir(cluster string) string { return filepath.Join(cluster, "volumes") }

// makeVolumes makes those directories of volumes that are not there and
// returns their names: nodes make none, so that one that vanished is missed.
// As the provisioner's, any user may write to them.
func makeVolumes(cluster string, names []string) (made []string, err error) {
	root, err := os.OpenRoot(volumesDir(cluster))
	if err != nil {
		return nil, fmt.Errorf("make volumes: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, name := range names {
		err := root.Mkdir(name, 0o777)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			made = append(made, name)
			err = root.Chmod(name, 0o777) // past the umask
		}
		if err != nil {
			return made, fmt.Errorf("make volumes: %w", err)
		}
	}
	return made, nil
}

// unmakeVolumes removes what makeVolumes made, unless somebody wrote to it.
func unmakeVolumes(cluster string, made []string) error {
	var errs []error
	for _, name := range made {
		path := filepath.Join(volumesDir(cluster), name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			errs = append(errs, fmt.Errorf("remove an empty volume: %w", err))
		}
	}
	return errors.Join(errs...)
}
