package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// overlayMagic is statfs's type of an overlay file system.
const overlayMagic = 0x794c7630

// holdsOverlay says whether unpacked layers can lie in the store: overlayfs
// has no place for another one's whiteouts. Without them nodes unpack for
// themselves.
func holdsOverlay(store string) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(store, &fs); err != nil {
		return false, fmt.Errorf("stat file system of %s: %w", store, err)
	}
	return fs.Type != overlayMagic, nil
}

// unpackAll unpacks all images, as many at a time as there are cores:
// decompressing is most of a load.
func (l *load) unpackAll(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for n := range l.images {
		image := &l.images[n]
		group.Go(func() (err error) {
			if image.Layers, err = l.unpack(ctx, image.Target); err != nil {
				return fmt.Errorf("image %s: %w", image.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// unpack makes an image's layers unless the store has them, and returns their
// chain ids.
func (l *load) unpack(ctx context.Context, target ocispec.Descriptor) ([]digest.Digest, error) {
	manifest, err := images.Manifest(ctx, l.content, target, platforms.Default())
	if err != nil {
		return nil, err
	}
	data, err := content.ReadBlob(ctx, l.content, manifest.Config)
	if err != nil {
		return nil, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	diffs := config.RootFS.DiffIDs
	if len(diffs) != len(manifest.Layers) {
		return nil, fmt.Errorf("configuration names %d layers, manifest %d", len(diffs), len(manifest.Layers))
	}
	chains := identity.ChainIDs(append([]digest.Digest(nil), diffs...))
	var parents []string // nearest first, as overlayfs has them
	for n, chain := range chains {
		if err := chain.Validate(); err != nil {
			return nil, fmt.Errorf("layer %d: %w", n, err)
		}
		dir := layerDir(l.store, chain)
		if err := l.ensureLayer(ctx, manifest.Layers[n], chain, diffs[n], parents, dir); err != nil {
			return nil, fmt.Errorf("layer %s: %w", manifest.Layers[n].Digest, err)
		}
		parents = append([]string{filepath.Join(dir, "fs")}, parents...)
	}
	return chains, nil
}

// ensureLayer unpacks a layer unless the store has it, or another image of the
// archive is about it.
func (l *load) ensureLayer(ctx context.Context, layer ocispec.Descriptor, chain, diff digest.Digest, parents []string, dir string) error {
	lock, _ := l.layers.LoadOrStore(chain, &sync.Mutex{})
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return l.unpackLayer(ctx, layer, diff, parents, dir)
}

// unpackLayer makes dir from a layer, or nothing.
func (l *load) unpackLayer(ctx context.Context, layer ocispec.Descriptor, diff digest.Digest, parents []string, dir string) (err error) {
	aside := filepath.Join(l.store, "tmp", "layer-"+filepath.Base(dir))
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	fs := filepath.Join(aside, "fs")
	if err := os.MkdirAll(fs, 0o755); err != nil {
		return err
	}
	// The owner of a layer's root is its parent's, unless the layer says so.
	if len(parents) > 0 {
		var st unix.Stat_t
		if err := unix.Stat(parents[0], &st); err != nil {
			return err
		}
		if err := os.Lchown(fs, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	blob, err := l.content.ReaderAt(ctx, layer)
	if err != nil {
		return missing(err)
	}
	defer blob.Close()
	stream, err := compression.DecompressStream(content.NewReader(blob))
	if err != nil {
		return err
	}
	defer stream.Close()
	digester := digest.Canonical.Digester()
	tee := io.TeeReader(&contextReader{ctx, stream}, digester.Hash())
	if _, err := archive.Apply(ctx, fs, tee,
		archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents)); err != nil {
		return err
	}
	// Trailing zeros belong to the digest.
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if got := digester.Digest(); got != diff {
		return fmt.Errorf("unpacks to %s, the image wants %s", got, diff)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return err
	}
	return os.Rename(aside, dir)
}
