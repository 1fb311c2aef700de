package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Store is the directory of a host's snapshots.
type Store struct{ Dir string }

// Suffixes of what is no snapshot yet and what is none any more; a leading dot
// tells both from snapshots.
const (
	draftSuffix   = ".new"
	deletedSuffix = ".deleted"
)

// Path is the directory of a snapshot.
func (s Store) Path(name string) string { return filepath.Join(s.Dir, name) }

// List describes all snapshots, the oldest first. One that cannot be read
// keeps no other from being listed: it is listed with its name alone.
func (s Store) List() ([]Manifest, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var list []Manifest
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.IsDir() {
			continue
		}
		m, err := s.Get(e.Name())
		switch {
		case errors.Is(err, ErrNotFound):
			continue // deleted since the listing
		case err != nil:
			m = &Manifest{Name: e.Name()}
		}
		list = append(list, *m)
	}
	slices.SortStableFunc(list, func(a, b Manifest) int { return a.Created.Compare(b.Created) })
	return list, nil
}

// Get describes one snapshot.
func (s Store) Get(name string) (*Manifest, error) {
	if err := ValidateName(name); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(s.Path(name), manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("snapshot %q: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", name, err)
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", name, err)
	}
	m.Name = name
	return m, nil
}

func parseManifest(data []byte) (*Manifest, error) {
	// The number alone first: the rest may be anything.
	var only struct{ Format int }
	if err := json.Unmarshal(data, &only); err != nil {
		return nil, fmt.Errorf("%w: its %s: %w", ErrDamaged, manifestFile, err)
	}
	if only.Format > format {
		return nil, (&Manifest{Format: only.Format}).validate()
	}
	m := &Manifest{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%w: its %s: %w", ErrDamaged, manifestFile, err)
	}
	return m, m.validate()
}

// Verify reads all of a snapshot and compares it with its manifest.
func (s Store) Verify(m *Manifest) error {
	for _, want := range m.Files {
		have, err := describe(s.Path(m.Name), want.Path)
		if err == nil && have != want {
			err = fmt.Errorf("%w: its checksum is another", ErrDamaged)
		}
		if err != nil {
			return fmt.Errorf("snapshot %q: %s: %w", m.Name, want.Path, err)
		}
	}
	return nil
}

// Delete removes a snapshot: it is none from one moment to the next.
func (s Store) Delete(name string) error {
	if err := ValidateName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(s.Path(name)); err != nil {
		return fmt.Errorf("snapshot %q: %w", name, ErrNotFound)
	}
	gone := s.hidden(name, deletedSuffix)
	err := os.RemoveAll(gone) // of a delete that was killed
	if err == nil {
		err = os.Rename(s.Path(name), gone)
	}
	if err == nil {
		err = syncDir(s.Dir)
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("delete snapshot %q: %w", name, err)
	}
	_ = os.Remove(s.Dir) // unless there are others
	return nil
}

// Sweep removes what processes that died left half-made or half-deleted. No
// other Sweep or Draft may run at the same time: callers have a lock.
func (s Store) Sweep() error {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep snapshots: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			continue
		}
		dir := filepath.Join(s.Dir, e.Name())
		lock, err := tryLock(dir)
		if err != nil || lock == nil {
			continue // somebody is at work on it, or has just finished
		}
		errs = append(errs, os.RemoveAll(dir))
		lock.Close()
	}
	_ = os.Remove(s.Dir) // unless there are others
	return errors.Join(errs...)
}

func (s Store) hidden(name, suffix string) string { return filepath.Join(s.Dir, "."+name+suffix) }

// Draft is a snapshot that is being made. It is its maker's as long as that
// lives.
type Draft struct {
	store Store
	name  string
	lock  *os.File
}

// Draft begins a snapshot. The caller fills Dir and calls Publish; Discard is
// always right in the end. See Sweep about others at the same time.
func (s Store) Draft(name string) (*Draft, error) {
	if err := ValidateName(name); err != nil {
		return nil, err
	}
	if err := s.absent(name); err != nil {
		return nil, err
	}
	d := &Draft{store: s, name: name}
	if err := os.MkdirAll(d.Dir(), 0o700); err != nil {
		return nil, fmt.Errorf("make snapshot %q: %w", name, err)
	}
	lock, err := tryLock(d.Dir())
	if err != nil {
		return nil, fmt.Errorf("make snapshot %q: %w", name, err)
	}
	if lock == nil {
		return nil, fmt.Errorf("snapshot %q: another command makes it: %w", name, ErrExists)
	}
	d.lock = lock
	return d, nil
}

func (s Store) absent(name string) error {
	if _, err := os.Lstat(s.Path(name)); err == nil {
		return fmt.Errorf("snapshot %q: %w", name, ErrExists)
	}
	return nil
}

// Dir is where the files go.
func (d *Draft) Dir() string { return d.store.hidden(d.name, draftSuffix) }

// Publish lists the files of the draft in m and makes it a snapshot.
func (d *Draft) Publish(m Manifest) (*Manifest, error) {
	m.Format, m.Name, m.Files, m.Bytes = format, d.name, nil, 0
	err := filepath.WalkDir(d.Dir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return syncDir(path)
		}
		rel, err := filepath.Rel(d.Dir(), path)
		if err != nil {
			return err
		}
		f, err := describe(d.Dir(), rel)
		m.Files, m.Bytes = append(m.Files, f), m.Bytes+f.Size
		return err
	})
	if err == nil {
		err = m.validate()
	}
	if err == nil {
		err = d.commit(m)
	}
	if err != nil {
		return nil, fmt.Errorf("make snapshot %q: %w", d.name, err)
	}
	return &m, nil
}

func (d *Draft) commit(m Manifest) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(d.Dir(), manifestFile), append(data, '\n')); err != nil {
		return err
	}
	if err := syncDir(d.Dir()); err != nil {
		return err
	}
	if err := d.store.absent(d.name); err != nil {
		return err
	}
	if err := os.Rename(d.Dir(), d.store.Path(d.name)); err != nil {
		return err
	}
	return syncDir(d.store.Dir)
}

// Discard removes a draft that was not published.
func (d *Draft) Discard() error {
	defer d.lock.Close()
	if err := os.RemoveAll(d.Dir()); err != nil {
		return fmt.Errorf("discard snapshot %q: %w", d.name, err)
	}
	_ = os.Remove(d.store.Dir) // unless there are others
	return nil
}

// describe reads a file.
func describe(dir, path string) (File, error) {
	f, err := os.OpenFile(filepath.Join(dir, path), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	return File{Path: path, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}

// WriteFile makes a file of root's alone that is on the disk when it returns.
func WriteFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// CopyFile copies a file of root's; one that is not there is fs.ErrNotExist.
func CopyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return WriteFile(to, data)
}

// tryLock returns nil without an error when another process has the lock.
func tryLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return nil, nil
	}
	if err == nil {
		// The last owner may have removed it since it was opened.
		var mine, there os.FileInfo
		if mine, err = f.Stat(); err == nil {
			there, err = os.Stat(dir)
		}
		if err == nil && !os.SameFile(mine, there) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
