package union

import (
	"context"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
)

// Content is a private content store that also finds the blobs of a shared
// one. Deleting is the private store's: it removes the node's own copy, if
// there is one, and the garbage collector is content.
type Content struct {
	content.Store
	shared *imagestore.Reader
}

var _ content.Store = (*Content)(nil)

// NewContent returns the union of the two.
func NewContent(private content.Store, shared *imagestore.Reader) *Content {
	return &Content{Store: private, shared: shared}
}

// Info knows blobs of both stores.
func (c *Content) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	info, err := c.Store.Info(ctx, d)
	if !errdefs.IsNotFound(err) {
		return info, err
	}
	if st, statErr := os.Stat(c.shared.Blob(d)); statErr == nil {
		return content.Info{Digest: d, Size: st.Size(), CreatedAt: st.ModTime(), UpdatedAt: st.ModTime()}, nil
	}
	return info, err
}

// ReaderAt reads blobs of both stores.
func (c *Content) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	reader, err := c.Store.ReaderAt(ctx, desc)
	if !errdefs.IsNotFound(err) {
		return reader, err
	}
	if shared, openErr := local.OpenReader(c.shared.Blob(desc.Digest)); openErr == nil {
		return shared, nil
	}
	return nil, err
}
