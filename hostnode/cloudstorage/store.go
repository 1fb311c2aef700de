package cloudstorage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// store is the volumes of one driver on disk.
type store struct {
	dir    string
	driver string
	// mu is held by whoever changes a record.
	mu sync.Mutex
}

// The two kinds of directories that have a record, and their record's file.
const (
	volumes    = "volumes"
	snapshots  = "snapshots"
	recordFile = "volume.json"
	dataDir    = "data"
	diskFile   = "disk"
	aside      = ".new-"
)

func (s *store) path(kind, id string) string {
	if kind == volumes {
		id = canonical(s.driver, id)
	}
	return filepath.Join(s.dir, kind, fileName(id))
}

// find reads a record; nil when there is none.
func (s *store) find(kind, id string) (*record, error) {
	r := &record{}
	err := readJSON(filepath.Join(s.path(kind, id), recordFile), r)
	if missing(err) {
		return nil, nil
	}
	return r, err
}

func (s *store) write(kind string, r *record) error {
	return writeJSON(filepath.Join(s.path(kind, r.ID), recordFile), r)
}

// create makes the directory of r from the one of its source, or an empty one,
// and publishes it. It returns what is there when another was faster.
func (s *store) create(kind string, r *record, source string, mode os.FileMode) (*record, error) {
	target := s.path(kind, r.ID)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return nil, err
	}
	building, release, err := begin(filepath.Dir(target))
	if err != nil {
		return nil, err
	}
	defer release()
	if err := fill(building, r, source, mode); err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(building, recordFile), r); err != nil {
		return nil, err
	}
	if kind == volumes {
		if err := s.know(r.ID); err != nil {
			return nil, err
		}
	}
	// Publishing never takes the place of what is there.
	err = unix.Renameat2(unix.AT_FDCWD, building, unix.AT_FDCWD, target, unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) {
		return s.find(kind, r.ID)
	}
	return r, err
}

// fill makes the contents of a volume.
func fill(dir string, r *record, source string, mode os.FileMode) error {
	if !r.onDisk() {
		data := filepath.Join(dir, dataDir)
		if source != "" {
			return copyTree(data, filepath.Join(source, dataDir))
		}
		return errors.Join(os.Mkdir(data, mode), os.Chmod(data, mode))
	}
	disk := filepath.Join(dir, diskFile)
	if source != "" {
		if err := copySparse(disk, filepath.Join(source, diskFile)); err != nil {
			return err
		}
		return os.Truncate(disk, r.Bytes)
	}
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(r.Bytes), f.Close())
}

// erase removes a volume or a snapshot; one that is gone is fine.
func (s *store) erase(kind, id string) error {
	if err := os.RemoveAll(s.path(kind, id)); err != nil || kind != volumes {
		return err
	}
	err := os.Remove(s.knownPath(id))
	if missing(err) {
		return nil
	}
	return err
}

// knownPath is an empty file for each volume that was created and not deleted,
// beside the volumes: without it, one whose directory is gone would look like
// one that nobody has created.
func (s *store) knownPath(id string) string {
	return filepath.Join(s.dir, "known", fileName(canonical(s.driver, id)))
}

func (s *store) know(id string) error {
	path := s.knownPath(id)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o600)
}

// known tells whether a volume was created and not deleted.
func (s *store) known(id string) bool {
	_, err := os.Stat(s.knownPath(id))
	return err == nil
}

// list reads the records of a kind, in the order of their file names.
func (s *store) list(kind string) ([]*record, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, kind))
	if err != nil && !missing(err) {
		return nil, err
	}
	var all []*record
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		r := &record{}
		err := readJSON(filepath.Join(s.dir, kind, e.Name(), recordFile), r)
		if missing(err) {
			continue // just deleted
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// begin makes the directory in which something is built aside, and removes
// those that a crash left: nobody holds their lock.
func begin(parent string) (dir string, release func(), err error) {
	left, err := filepath.Glob(filepath.Join(parent, aside+"*"))
	if err != nil {
		return "", nil, err
	}
	for _, dir := range left {
		if unlock, err := lock(dir); err == nil {
			err := os.RemoveAll(dir)
			unlock()
			if err != nil {
				return "", nil, err
			}
		}
	}
	dir, err = os.MkdirTemp(parent, aside)
	if err != nil {
		return "", nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return "", nil, err
	}
	return dir, func() { _ = os.RemoveAll(dir); unlock() }, nil
}

// lock takes a directory that nobody else has.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

func (s *store) node(id string) (*nodeRecord, error) {
	n := &nodeRecord{}
	err := readJSON(filepath.Join(s.dir, "nodes", fileName(id)), n)
	if missing(err) {
		return nil, nil
	}
	return n, err
}

func (s *store) writeNode(n nodeRecord) error {
	dir := filepath.Join(s.dir, "nodes")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("node %s: %w", n.ID, err)
	}
	return writeJSON(filepath.Join(dir, fileName(n.ID)), n)
}
