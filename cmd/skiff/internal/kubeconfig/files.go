package kubeconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// ContextName is the name of a cluster's context, cluster and user.
func ContextName(cluster string) string { return "skiff-" + cluster }

// Files says where kubeconfigs are, in kubectl's order of preference.
type Files struct {
	// Explicit is the value of --kubeconfig.
	Explicit string
	// List is the value of $KUBECONFIG, paths separated by colons.
	List string
	// Home is the user's home directory.
	Home string
	// SudoUID is what sudo says about who called it. Files that are made in
	// that user's directories become that user's.
	SudoUID string
	// LockWait bounds the wait for another program's lock. Default 5s:
	// holders need milliseconds.
	LockWait time.Duration
}

// paths are the files that kubectl would read.
func (f Files) paths() ([]string, error) {
	if f.Explicit != "" {
		return []string{f.Explicit}, nil
	}
	var paths []string
	for _, p := range filepath.SplitList(f.List) {
		if p != "" && !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	if len(paths) > 0 {
		return paths, nil
	}
	if f.Home == "" {
		return nil, &Error{Path: "~/.kube/config", Cause: errors.New("$HOME is not set"), mend: "name a file with --kubeconfig or $KUBECONFIG"}
	}
	return []string{filepath.Join(f.Home, ".kube", "config")}, nil
}

// Target is the file that a new context goes to: the first of the list that
// exists, else the last.
func (f Files) Target() (string, error) {
	paths, err := f.paths()
	if err != nil {
		return "", err
	}
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && !info.IsDir() {
			return p, nil
		}
	}
	return paths[len(paths)-1], nil
}

// Merge puts the only context of raw, a kubeconfig, into the user's file under
// name and makes it the current one. It says which file that was.
func (f Files) Merge(ctx context.Context, name string, raw []byte) (string, error) {
	path, err := f.Target()
	if err != nil {
		return "", err
	}
	entry, err := parse(raw)
	if err != nil {
		return "", fmt.Errorf("kubeconfig of the cluster: %w", err)
	}
	return path, f.edit(ctx, path, func(d *document) (bool, error) { return true, d.merge(name, entry) })
}

// Refresh gives the user of name the certificate and key of raw, in every file
// of the user's that has that context for the same cluster, which is one with
// the same CA. Anything else stays as it is, and so do files without. It says
// whether any was changed.
func (f Files) Refresh(ctx context.Context, name string, raw []byte) (changed bool, err error) {
	paths, err := f.paths()
	if err != nil {
		return false, err
	}
	from, err := parse(raw)
	if err != nil {
		return false, fmt.Errorf("kubeconfig of the cluster: %w", err)
	}
	var errs []error
	for _, path := range paths {
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(have, []byte(name)) {
			continue // nothing to refresh
		}
		if d, err := parse(have); err != nil || !d.refresh(name, from) {
			continue // without a lock: most files have the certificate already
		}
		errs = append(errs, f.edit(ctx, path, func(d *document) (bool, error) {
			done := d.refresh(name, from)
			changed = changed || done
			return done, nil
		}))
	}
	return changed, errors.Join(errs...)
}

// Remove takes the entries of name out of all of the user's files. Files that
// do not have them stay untouched; one that holds nothing else goes.
func (f Files) Remove(ctx context.Context, name string) error {
	paths, err := f.paths()
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Contains(raw, []byte(name)) {
			continue
		}
		errs = append(errs, f.edit(ctx, path, func(d *document) (bool, error) { return d.remove(name), nil }))
	}
	return errors.Join(errs...)
}

// edit changes one file under its lock: read, change, publish by a rename.
func (f Files) edit(ctx context.Context, path string, change func(*document) (bool, error)) error {
	// A link stays a link: the file that it names is replaced.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := f.makeDir(filepath.Dir(path)); err != nil {
		return &Error{Path: path, Cause: err}
	}
	unlock, err := f.lock(ctx, path)
	if err != nil {
		return &Error{Path: path, Cause: err, mend: "if no other program is at work on it: rm " + path + ".lock"}
	}
	err = f.change(path, change)
	if err := errors.Join(err, unlock()); err != nil {
		return &Error{Path: path, Cause: err, mend: mendOf(err)}
	}
	return nil
}

func (f Files) change(path string, change func(*document) (bool, error)) error {
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d, err := parse(raw)
	if err != nil {
		return &notKubeconfig{err}
	}
	changed, err := change(d)
	if err != nil {
		return &notKubeconfig{err}
	}
	if !changed {
		return nil
	}
	if d.empty() {
		return os.Remove(path)
	}
	out, err := d.encode()
	if err != nil {
		return err
	}
	return f.replace(path, out)
}

// replace writes aside and renames, so that no reader sees half a file and a
// full disk does not cost the user's other contexts.
func (f Files) replace(path string, content []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".skiff-kubeconfig-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(content)
	if err == nil {
		err = f.own(tmp, path)
	}
	// CreateTemp made it 0600.
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// own gives tmp the owner of the file that it replaces, or that of its
// directory when root works for that very user by sudo.
func (f Files) own(tmp *os.File, path string) error {
	info, err := os.Stat(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		info, err = os.Stat(filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) == os.Geteuid() {
		return nil
	}
	if fresh && strconv.Itoa(int(owner.Uid)) != f.SudoUID {
		return nil
	}
	return tmp.Chown(int(owner.Uid), int(owner.Gid))
}

// makeDir makes the directory of a kubeconfig; what it makes below a
// directory of the user who called sudo is that user's.
func (f Files) makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s: not a directory", dir)
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent == dir {
		return fmt.Errorf("%s: no such directory", dir)
	}
	if err := f.makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Stat(parent)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && strconv.Itoa(int(owner.Uid)) == f.SudoUID {
		return os.Chown(dir, int(owner.Uid), int(owner.Gid))
	}
	return nil
}

// lockPoll is short: the holder of the lock reads and writes one small file.
// There is no event to wait for without an inotify instance, which hosts with
// many clusters are short of.
const lockPoll = 5 * time.Millisecond

// lock takes client-go's lock: a file beside the kubeconfig that must not
// exist.
func (f Files) lock(ctx context.Context, path string) (unlock func() error, err error) {
	wait := f.LockWait
	if wait == 0 {
		wait = 5 * time.Second
	}
	name := path + ".lock"
	deadline := time.Now().Add(wait)
	for {
		l, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0)
		if err == nil {
			return func() error { return os.Remove(name) }, l.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("locked by another program for %v: %s exists", wait, name)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}
