package imagestore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// blobs is a content store in a directory, as containerd's own, but one that
// does not wait for the disk at every blob: an archive has hundreds, and what
// a power failure would lose is loaded again.
type blobs struct {
	content.Store
	dir string
}

func newBlobs(dir string) (*blobs, error) {
	store, err := local.NewStore(dir)
	if err != nil {
		return nil, err
	}
	return &blobs{Store: store, dir: dir}, os.MkdirAll(filepath.Join(dir, "blobs", digest.Canonical.String()), 0o755)
}

func (b *blobs) file(d digest.Digest) string {
	return filepath.Join(b.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// Writer starts a blob. There is one writer, so references mean nothing.
func (b *blobs) Writer(_ context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if d := o.Desc.Digest; d != "" {
		if _, err := os.Stat(b.file(d)); err == nil {
			return nil, fmt.Errorf("blob %s: %w", d, errdefs.ErrAlreadyExists)
		}
	}
	f, err := os.CreateTemp(b.dir, "blob-")
	if err != nil {
		return nil, err
	}
	return &blobWriter{store: b, file: f, ref: o.Ref, digester: digest.Canonical.Digester(), started: time.Now()}, nil
}

// blobWriter is a blob that is being written, in a file of its own.
type blobWriter struct {
	store    *blobs
	file     *os.File
	ref      string
	digester digest.Digester
	size     int64
	started  time.Time
}

func (w *blobWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.digester.Hash().Write(p[:n])
	w.size += int64(n)
	return n, err
}

func (w *blobWriter) Digest() digest.Digest { return w.digester.Digest() }

func (w *blobWriter) Status() (content.Status, error) {
	return content.Status{Ref: w.ref, Offset: w.size, StartedAt: w.started, UpdatedAt: w.started}, nil
}

func (w *blobWriter) Truncate(size int64) error {
	if size != 0 {
		return fmt.Errorf("truncate blob to %d: %w", size, errdefs.ErrNotImplemented)
	}
	w.size = 0
	w.digester.Hash().Reset()
	_, err := w.file.Seek(0, 0)
	return errors.Join(err, w.file.Truncate(0))
}

// Commit gives the blob its name.
func (w *blobWriter) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	d := w.Digest()
	switch {
	case size > 0 && size != w.size:
		return errors.Join(fmt.Errorf("blob %s has %d bytes, not %d: %w", d, w.size, size, errdefs.ErrFailedPrecondition), w.Close())
	case expected != "" && expected != d:
		return errors.Join(fmt.Errorf("blob is %s, not %s: %w", d, expected, errdefs.ErrFailedPrecondition), w.Close())
	}
	err := os.Rename(w.file.Name(), w.store.file(d))
	return errors.Join(err, w.file.Close())
}

// Close gives up a blob that was not committed.
func (w *blobWriter) Close() error {
	if err := w.file.Close(); err != nil {
		if errors.Is(err, os.ErrClosed) {
			return nil // committed
		}
		return err
	}
	return os.Remove(w.file.Name())
}
