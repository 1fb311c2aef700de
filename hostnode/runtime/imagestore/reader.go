package imagestore

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Reader reads a store that somebody else changes: a node's view.
type Reader struct {
	store string

	// mu guards the fields below.
	mu     sync.Mutex
	seen   os.FileInfo
	images []Image
}

// NewReader returns a reader of the store in a directory, which need not
// exist yet.
func NewReader(store string) *Reader { return &Reader{store: store} }

// Images returns the images as of now. It costs a stat while nothing changes;
// callers do not change the result.
func (r *Reader) Images() ([]Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(indexFile(r.store))
	if os.IsNotExist(err) {
		r.seen, r.images = nil, nil
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read image store: %w", err)
	}
	// The index is replaced by rename: another version is another file.
	if r.seen != nil && os.SameFile(r.seen, info) && r.seen.ModTime().Equal(info.ModTime()) && r.seen.Size() == info.Size() {
		return r.images, nil
	}
	i, err := readIndex(r.store)
	if err != nil {
		return nil, fmt.Errorf("read image store: %w", err)
	}
	r.seen, r.images = info, i.Images
	return r.images, nil
}

// Blob is the path of a blob in the store, whether it exists or not.
func (r *Reader) Blob(d digest.Digest) string { return blobFile(r.store, d) }

// Layer is the directory of an unpacked layer, and a lock on it: while the
// file is open the layer stays. An error that is os.ErrNotExist says that the
// store does not have it.
func (r *Reader) Layer(chain digest.Digest) (fs string, held *os.File, err error) {
	if err := chain.Validate(); err != nil {
		return "", nil, os.ErrNotExist
	}
	held, err = lockLayer(r.store, chain, unix.LOCK_SH)
	if err != nil {
		return "", nil, err
	}
	fs = filepath.Join(layerDir(r.store, chain), "fs")
	// It may have been swept between open and lock.
	if _, err := os.Stat(fs); err != nil {
		held.Close()
		return "", nil, err
	}
	return fs, held, nil
}
