package bundle

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrNone says that a program has no bundle.
var ErrNone = errors.New("no bundle in this program")

// Bundle is what a program carries.
type Bundle struct {
	// Name is the directory's.
	Name  string
	files []*zip.File
}

// Open reads the index at the end of a program of the given size.
func Open(program io.ReaderAt, size int64) (*Bundle, error) {
	r, err := zip.NewReader(program, size)
	if errors.Is(err, zip.ErrFormat) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	if !filepath.IsLocal(r.Comment) || strings.ContainsRune(r.Comment, filepath.Separator) {
		return nil, fmt.Errorf("read bundle: %q is not the name of a directory", r.Comment)
	}
	return &Bundle{Name: r.Comment, files: r.File}, nil
}

// Ensure returns the bundle's directory below parent, unpacked. When all is
// there, that is a stat of each file.
func (b *Bundle) Ensure(parent string) (dir string, err error) {
	dir = filepath.Join(parent, b.Name)
	if b.damaged(dir) == nil {
		return dir, nil
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(parent, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return "", err
	}
	return dir, b.mend(parent, dir)
}

// flock waits for the other processes that unpack.
func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		return nil
	}
}

// mend unpacks what is not there or not as packed; the caller holds the lock.
func (b *Bundle) mend(parent, dir string) error {
	// Of processes that were killed: this one has the lock.
	aside := filepath.Join(parent, ".unpack")
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if _, err := os.Lstat(dir); err == nil {
		return unpack(b.damaged(dir), dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := unpack(b.files, aside)
	if err == nil {
		err = os.Rename(aside, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(aside))
	}
	return sync(parent)
}

// damaged are the files that are not in dir as they were packed.
func (b *Bundle) damaged(dir string) []*zip.File {
	var damaged []*zip.File
	for _, f := range b.files {
		info, err := os.Lstat(filepath.Join(dir, f.Name))
		if err != nil || info.Mode() != f.Mode() || info.Size() != int64(f.UncompressedSize64) || !info.ModTime().Equal(f.Modified) {
			damaged = append(damaged, f)
		}
	}
	return damaged
}

func unpack(files []*zip.File, dir string) error {
	for _, f := range files {
		if err := place(f, filepath.Join(dir, f.Name)); err != nil {
			return fmt.Errorf("unpack %s: %w", f.Name, err)
		}
	}
	return nil
}

// place writes one file beside its place and renames it: a program that runs
// keeps its own.
func place(f *zip.File, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := write(f, tmp); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return errors.Join(os.Rename(tmp, path), sync(filepath.Dir(path)))
}

func write(f *zip.File, path string) (err error) {
	from, err := f.Open()
	if err != nil {
		return err
	}
	defer from.Close()
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	// On the disk before it has its name: what is there after a power cut is
	// whole.
	return errors.Join(to.Chmod(f.Mode()), os.Chtimes(path, f.Modified, f.Modified), to.Sync())
}

func sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
