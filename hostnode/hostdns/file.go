package hostdns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// aside is where the next version of path is written.
func aside(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".skiff")
}

// replace gives path other content: readers see the old or the new one. Owner,
// mode and extended attributes stay. A file that cannot be renamed over, as a
// container's own resolv.conf is a mount, is overwritten.
func replace(path string, content []byte) error {
	err := rename(path, content)
	for _, cannot := range []error{unix.EBUSY, unix.EROFS, unix.EACCES, unix.EPERM} {
		if errors.Is(err, cannot) {
			return overwrite(path, content)
		}
	}
	return err
}

func rename(path string, content []byte) (err error) {
	tmp := aside(path)
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp) // the first error counts
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = likeness(f, path)
	}
	if err == nil {
		err = f.Sync() // or a power cut leaves an empty file
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// likeness gives f owner, mode and extended attributes of path, if that
// exists: a security module judges by them.
func likeness(f *os.File, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	names := make([]byte, 4096)
	n, err := unix.Listxattr(path, names)
	if err != nil {
		return nil // a file system without any
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Getxattr(path, name, value)
		if err == nil {
			err = unix.Fsetxattr(int(f.Fd()), name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

// overwrite writes in place what fits into one page: one call, which is not
// interrupted. What becomes shorter is padded to its old length with a comment
// that says that it is to be cut off, and cut off then.
func overwrite(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	padded := append(content[:len(content):len(content)], padding(content, int(info.Size())-len(content))...)
	if len(padded) > os.Getpagesize() {
		return fmt.Errorf("overwrite %s: it is a mount, and larger than a page", path)
	}
	if _, err := f.WriteAt(padded, 0); err != nil {
		return err
	}
	if len(padded) > len(content) {
		if err := f.Truncate(int64(len(content))); err != nil {
			return err
		}
	}
	return f.Sync()
}

// padding is n bytes to put after content, which cut finds. What is taken away
// is longer than a mark.
func padding(content []byte, n int) []byte {
	if n <= 0 {
		return nil
	}
	mark := cutMark
	if len(content) > 0 && content[len(content)-1] != '\n' {
		mark = "\n" + cutMarkToo
	}
	return append([]byte(mark+strings.Repeat("#", max(0, n-len(mark)-1))), '\n')[:max(n, 0)]
}
