package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Load takes all images of an archive into a store: what `docker save`,
// `podman save`, `buildah push oci-archive:` and `crane pull` write, plain or
// compressed with gzip or zstd. An archive goes in whole or not at all. Names
// are normalized as docker does, "busybox" to
// "docker.io/library/busybox:latest"; a name that the store has already means
// the new image from then on.
func Load(ctx context.Context, store string, archive io.Reader) ([]Image, error) {
	return take(ctx, store, archive, (*index).put)
}

// take brings the images of an archive into a store; put says where in the
// index they go.
func take(ctx context.Context, store string, archive io.Reader, put func(*index, []Image)) (_ []Image, err error) {
	unlock, err := lock(store)
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	defer unlock()
	defer func() {
		// What was made is in the index now, or is swept away.
		if swept := sweep(store); swept != nil {
			err = errors.Join(err, fmt.Errorf("load images: sweep: %w", swept))
		}
	}()
	l := &load{store: store, work: filepath.Join(store, "tmp", "load"), now: time.Now().UTC()}
	if err := l.read(ctx, archive); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	loaded, err := l.publish(ctx, put)
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	return loaded, nil
}

// load is one run of Load.
type load struct {
	store, work string
	now         time.Time
	// content has the blobs of the archive, in work.
	content content.Store
	images  []Image
	// layers are locked while they are unpacked, by chain id: *sync.Mutex.
	layers sync.Map
}

// read takes the archive apart, into the work directory.
func (l *load) read(ctx context.Context, archive io.Reader) error {
	if err := os.RemoveAll(l.work); err != nil {
		return err
	}
	blobs, err := newBlobs(l.work)
	if err != nil {
		return err
	}
	l.content = blobs
	stream, err := compression.DecompressStream(&contextReader{ctx, archive})
	if err != nil {
		return err
	}
	defer stream.Close()
	top, err := imagearchive.ImportIndex(ctx, l.content, stream)
	if err != nil {
		return err
	}
	// The checksum of a compressed archive is behind the last file.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return err
	}
	manifests, err := images.Children(ctx, l.content, top)
	if err != nil {
		return err
	}
	for _, target := range manifests {
		name, err := imageName(target)
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		image, err := l.describe(ctx, name, target)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		l.images = append(l.images, image)
	}
	if len(l.images) == 0 {
		return errors.New("it names no image; save images by name, not by id")
	}
	return nil
}

// imageName is the normalized name that an archive gives an image, or empty.
func imageName(target ocispec.Descriptor) (string, error) {
	name := target.Annotations[images.AnnotationImageName]
	if name == "" {
		// By its specification only a tag, but many write the full name.
		name = target.Annotations[ocispec.AnnotationRefName]
		if _, err := reference.Parse(name); name != "" && err == nil && !hasTagOrPath(name) {
			return "", fmt.Errorf("its only image is named %q, which is a tag without a repository", name)
		}
	}
	if name == "" {
		return "", nil
	}
	normal, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	return normal.String(), nil
}

func hasTagOrPath(name string) bool {
	for _, r := range name {
		if r == ':' || r == '/' || r == '@' {
			return true
		}
	}
	return false
}

// describe finds the blobs of an image for this host.
func (l *load) describe(ctx context.Context, name string, target ocispec.Descriptor) (Image, error) {
	target.Annotations = nil // the archive's, not the image's
	image := Image{Name: name, LoadedAt: l.now, Target: target}
	platform := platforms.Default()
	config, err := images.Config(ctx, l.content, target, platform)
	if err != nil {
		return image, missing(err)
	}
	image.ID = config.Digest
	seen := map[digest.Digest]bool{}
	handler := images.LimitManifests(images.FilterPlatforms(images.ChildrenHandler(l.content), platform), platform, 1)
	err = images.Walk(ctx, images.Handlers(images.HandlerFunc(
		func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			info, err := l.content.Info(ctx, desc.Digest)
			if err != nil {
				return nil, missing(err)
			}
			desc.Size = info.Size
			if seen[desc.Digest] {
				return nil, nil // many images have the empty layer twice
			}
			seen[desc.Digest] = true
			image.Blobs = append(image.Blobs, desc)
			image.Size += info.Size
			return nil, nil
		}), handler), target)
	return image, err
}

// missing words what a damaged or partial archive looks like from here.
func missing(err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("the archive lacks a part of it for %s: %w", platforms.DefaultString(), err)
	}
	return err
}

// publish moves the blobs to their places, unpacks the layers, and puts the
// images into the index.
func (l *load) publish(ctx context.Context, put func(*index, []Image)) ([]Image, error) {
	unpackable, err := holdsOverlay(l.store)
	if err != nil {
		return nil, err
	}
	if unpackable {
		if err := l.unpackAll(ctx); err != nil {
			return nil, err
		}
	}
	for _, image := range l.images {
		for _, blob := range image.Blobs {
			if err := l.publishBlob(blob.Digest); err != nil {
				return nil, fmt.Errorf("image %s: %w", image.Name, err)
			}
		}
	}
	i, err := readIndex(l.store)
	if err != nil {
		return nil, err
	}
	put(&i, l.images)
	return l.images, writeIndex(l.store, i)
}

func (l *load) publishBlob(d digest.Digest) error {
	to := blobFile(l.store, d)
	if _, err := os.Stat(to); err == nil {
		return nil // shared with another image
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(filepath.Join(l.work, "blobs", d.Algorithm().String(), d.Encoded()), to)
}

// contextReader ends reads with the context: an interrupted load cleans up.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
