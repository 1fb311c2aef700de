package runtime

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// soundContent is a content store that drops what was written when it turns
// out to be something else. Upstream keeps it, whole, and the next download
// goes on where it ends: an image of which one transfer was damaged could never
// be pulled again.
type soundContent struct{ content.Store }

func (s soundContent) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	var options content.WriterOpts
	for _, opt := range opts {
		if err := opt(&options); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	return &soundWriter{Writer: w, store: s.Store, ref: options.Ref}, nil
}

type soundWriter struct {
	content.Writer
	store content.Store
	ref   string
}

func (w *soundWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	err := w.Writer.Commit(ctx, size, expected, opts...)
	if !errdefs.IsFailedPrecondition(err) {
		return err
	}
	if abortErr := w.store.Abort(ctx, w.ref); abortErr != nil && !errdefs.IsNotFound(abortErr) {
		err = fmt.Errorf("%w; and what was written stays: %w", err, abortErr)
	}
	return err
}
