package union

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	contentsuite "github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsuite "github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	bolt "go.etcd.io/bbolt"

	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts overlayfs")
	}
}

// loadImage makes a store with an image of one-file layers.
func loadImage(t *testing.T, store string, files ...string) imagestore.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{Architecture: "amd64", OS: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(file)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, file)
		w.Close()
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	tag, err := name.NewTag("app:1")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, img, &b); err != nil {
		t.Fatal(err)
	}
	loaded, err := imagestore.Load(t.Context(), store, &b)
	if err != nil {
		t.Fatal(err)
	}
	return loaded[0]
}

func newSnapshotter(root, store string) (*Snapshotter, error) {
	private, err := overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
	if err != nil {
		return nil, err
	}
	return NewSnapshotter(private, root, imagestore.NewReader(store))
}

// TestSnapshotterSuite is containerd's own suite for snapshotters. Its name
// tells the suite that directories of lower layers cannot be renamed.
func TestSnapshotterSuite(t *testing.T) {
	needRoot(t)
	store := t.TempDir()
	loadImage(t, store, "a")
	snapshotsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := newSnapshotter(root, store)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	})
}

// TestContentSuite is containerd's own suite for content stores, with the
// metadata store on top that containerd uses it through.
func TestContentSuite(t *testing.T) {
	needRoot(t)
	store := t.TempDir()
	loadImage(t, store, "a")
	contentsuite.ContentSuite(t, "skiff", func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		private, err := local.NewStore(root)
		if err != nil {
			return nil, nil, nil, err
		}
		db, err := bolt.Open(filepath.Join(root, "metadata.db"), 0o600, nil)
		if err != nil {
			return nil, nil, nil, err
		}
		cs := metadata.NewDB(db, NewContent(private, imagestore.NewReader(store)), nil).ContentStore()
		return namespaces.WithNamespace(ctx, "testsuite"), cs, db.Close, nil
	})
}

func TestSharedBlobsAreReadButNotDeleted(t *testing.T) {
	needRoot(t)
	store := t.TempDir()
	image := loadImage(t, store, "a")
	private, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := NewContent(private, imagestore.NewReader(store))
	for _, blob := range image.Blobs {
		info, err := c.Info(t.Context(), blob.Digest)
		if err != nil || info.Size != blob.Size {
			t.Errorf("info of %s: %+v, %v", blob.Digest, info, err)
		}
		data, err := content.ReadBlob(t.Context(), c, blob)
		if err != nil || blob.Digest.Algorithm().FromBytes(data) != blob.Digest {
			t.Errorf("read %s: %v", blob.Digest, err)
		}
		if err := c.Delete(t.Context(), blob.Digest); err != nil {
			t.Errorf("delete %s: %v", blob.Digest, err)
		}
		if _, err := c.Info(t.Context(), blob.Digest); err != nil {
			t.Errorf("after delete: %v", err)
		}
	}
	const none = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	if _, err := c.Info(t.Context(), none); !errdefs.IsNotFound(err) {
		t.Errorf("info of an unknown blob: %v", err)
	}
}

// prepareShared does what containerd's unpacker does first for every layer.
func prepareShared(t *testing.T, s snapshots.Snapshotter, image imagestore.Image) (top string) {
	t.Helper()
	parent := ""
	for n, chain := range image.Layers {
		key := "extract-" + chain.Encoded()[:8]
		_, err := s.Prepare(t.Context(), key, parent, snapshots.WithLabels(map[string]string{
			snapshots.LabelSnapshotRef: chain.String(),
		}))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("layer %d: %v, want already exists", n, err)
		}
		found := ""
		err = s.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
			if info.Labels[snapshots.LabelSnapshotRef] == chain.String() && info.Kind == snapshots.KindCommitted && info.Parent == parent {
				found = info.Name
			}
			return nil
		})
		if err != nil || found == "" {
			t.Fatalf("layer %d: committed snapshot not found: %v", n, err)
		}
		parent = found
	}
	return parent
}

func TestSharedLayersAreUsedInPlace(t *testing.T) {
	needRoot(t)
	store := t.TempDir()
	image := loadImage(t, store, "a", "b", "c")
	root := t.TempDir()
	s, err := newSnapshotter(root, store)
	if err != nil {
		t.Fatal(err)
	}
	top := prepareShared(t, s, image)
	mounts, err := s.Prepare(t.Context(), "container", top)
	if err != nil {
		t.Fatal(err)
	}
	err = mount.WithTempMount(t.Context(), mounts, func(dir string) error {
		for _, file := range []string{"a", "b", "c"} {
			if data, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(data) != file {
				t.Errorf("%s: %q, %v", file, data, err)
			}
		}
		return os.WriteFile(filepath.Join(dir, "a"), []byte("mine"), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	layer, held, err := imagestore.NewReader(store).Layer(image.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	held.Close()
	if data, err := os.ReadFile(filepath.Join(layer, "a")); err != nil || string(data) != "a" {
		t.Errorf("the shared layer was changed: %q, %v", data, err)
	}

	// The store keeps a deleted image while the node uses it, over restarts.
	if err := imagestore.Delete(store, "app:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(layer); err != nil {
		t.Errorf("layer in use: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = newSnapshotter(root, store); err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	// Removing all snapshots lets go of the layers and leaves the store alone.
	for key := "container"; key != ""; {
		info, err := s.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		key = info.Parent
	}
	if err := s.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(layer); err != nil {
		t.Errorf("layer after the node's clean-up: %v", err)
	}
	if len(s.held) > 0 {
		t.Errorf("locks are left: %v", s.held)
	}
	loadImage(t, store, "z") // sweeps
	if _, err := os.Stat(layer); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("layer of a deleted image that nobody uses: %v", err)
	}
}

func TestLayersTheStoreLacksAreUnpackedPrivately(t *testing.T) {
	needRoot(t)
	s, err := newSnapshotter(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const chain = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	mounts, err := s.Prepare(t.Context(), "extract", "", snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chain}))
	if err != nil || len(mounts) == 0 {
		t.Fatal(mounts, err)
	}
}
