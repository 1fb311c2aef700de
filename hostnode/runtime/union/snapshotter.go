package union

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
)

// Snapshotter is containerd's overlay snapshotter whose image layers may lie
// in the shared store.
//
// containerd says with LabelSnapshotRef which layer (chain id) it is about to
// unpack into a new snapshot. If the shared store has that layer, the new
// snapshot's empty directory becomes a symlink to it and is committed at once;
// "already exists" tells containerd that there is nothing left to unpack. That
// is the protocol of containerd's remote snapshotters. It works for images
// that a node pulls itself, too: layers that the host has are not unpacked.
type Snapshotter struct {
	snapshots.Snapshotter
	dir    string
	shared *imagestore.Reader

	// mu guards held, and keeps the links that sync looks at as they are.
	mu sync.Mutex
	// held are the locks on shared layers, by layer directory.
	held map[string]*os.File
}

var _ snapshots.Snapshotter = (*Snapshotter)(nil)

// NewSnapshotter wraps the overlay snapshotter whose root directory is root.
func NewSnapshotter(private snapshots.Snapshotter, root string, shared *imagestore.Reader) (*Snapshotter, error) {
	s := &Snapshotter{
		Snapshotter: private, dir: filepath.Join(root, "snapshots"), shared: shared,
		held: map[string]*os.File{},
	}
	return s, s.sync()
}

// Prepare makes a snapshot to write to, unless it is to become a layer that
// the shared store has.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return nil, err
		}
	}
	chain := digest.Digest(info.Labels[snapshots.LabelSnapshotRef])
	if chain == "" {
		mounts, err := s.Snapshotter.Prepare(ctx, key, parent, opts...)
		return resolve(mounts), err
	}
	layer, lock, err := s.shared.Layer(chain)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return s.Snapshotter.Prepare(ctx, key, parent, opts...)
		}
		return nil, fmt.Errorf("prepare snapshot of %s: %w", chain, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.adopt(ctx, key, parent, layer, info.Labels, opts); err != nil {
		lock.Close()
		return nil, fmt.Errorf("prepare snapshot of %s: %w", chain, err)
	}
	s.hold(layer, lock)
	return nil, fmt.Errorf("snapshot of %s: %w", chain, errdefs.ErrAlreadyExists)
}

// View makes a snapshot to read.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := s.Snapshotter.View(ctx, key, parent, opts...)
	return resolve(mounts), err
}

// Mounts tells how to mount a snapshot.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	mounts, err := s.Snapshotter.Mounts(ctx, key)
	return resolve(mounts), err
}

// resolve names shared layers by their real paths in mounts for a user
// namespace. containerd shifts the owners of the directory that all layers
// are in; a symlink would lead out of it, back to the unshifted files. Other
// mounts keep the links, which are shorter: there is one page for all options.
func resolve(mounts []mount.Mount) []mount.Mount {
	for _, m := range mounts {
		if !slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "uidmap=") }) {
			continue
		}
		for n, option := range m.Options {
			lower, ok := strings.CutPrefix(option, "lowerdir=")
			if !ok {
				continue
			}
			layers := strings.Split(lower, ":")
			for l, layer := range layers {
				if target, err := os.Readlink(layer); err == nil {
					layers[l] = target
				}
			}
			m.Options[n] = "lowerdir=" + strings.Join(layers, ":")
		}
	}
	return mounts
}

// adopt makes a committed snapshot that is a link to a shared layer.
func (s *Snapshotter) adopt(ctx context.Context, key, parent, layer string, labels map[string]string, opts []snapshots.Opt) (err error) {
	mounts, err := s.Snapshotter.Prepare(ctx, key, parent, opts...)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Snapshotter.Remove(context.WithoutCancel(ctx), key))
		}
	}()
	upper, err := s.upper(mounts)
	if err != nil {
		return err
	}
	if err := os.Remove(upper); err != nil { // empty
		return err
	}
	if err := os.Symlink(layer, upper); err != nil {
		return err
	}
	// The name only has to be new; containerd's metadata finds the snapshot by
	// its label and parent, and keys are never used twice.
	return s.Snapshotter.Commit(ctx, key+"-shared", key, snapshots.WithLabels(labels))
}

// upper finds the directory of a new snapshot in its mounts.
func (s *Snapshotter) upper(mounts []mount.Mount) (string, error) {
	for _, m := range mounts {
		if m.Type == "bind" && strings.HasPrefix(m.Source, s.dir+"/") {
			return m.Source, nil // no parent: the directory itself
		}
		for _, option := range m.Options {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("mounts of a new snapshot have no directory of it: %v", mounts)
}

// hold keeps a lock; the caller holds mu.
func (s *Snapshotter) hold(layer string, lock *os.File) {
	if s.held[layer] != nil {
		lock.Close() // one is enough
		return
	}
	s.held[layer] = lock
}

// Cleanup removes what no snapshot needs any more, and lets go of shared
// layers likewise.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	if cleaner, ok := s.Snapshotter.(snapshots.Cleaner); ok {
		if err := cleaner.Cleanup(ctx); err != nil {
			return err
		}
	}
	return s.sync()
}

// sync holds exactly the shared layers that snapshots link to. A link whose
// layer is gone stays: what needs it fails with the layer's name.
func (s *Snapshotter) sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	links, err := filepath.Glob(filepath.Join(s.dir, "*", "fs"))
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, link := range links {
		layer, err := os.Readlink(link)
		if err != nil {
			continue // a private directory, or just removed
		}
		used[layer] = true
		if s.held[layer] != nil {
			continue
		}
		chain := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(filepath.Dir(layer)))
		if _, lock, err := s.shared.Layer(chain); err == nil {
			s.hold(layer, lock)
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for layer, lock := range s.held {
		if !used[layer] {
			lock.Close()
			delete(s.held, layer)
		}
	}
	return nil
}

// Close lets go of all shared layers.
func (s *Snapshotter) Close() error {
	s.mu.Lock()
	for layer, lock := range s.held {
		lock.Close()
		delete(s.held, layer)
	}
	s.mu.Unlock()
	return s.Snapshotter.Close()
}
