package imagestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// ErrNotFound says that the store has no image of that name.
var ErrNotFound = errors.New("no such image")

// Image is one name in the store.
type Image struct {
	// Name is normalized: docker.io/library/busybox:latest.
	Name string `json:"name"`
	// ID is the digest of the image's configuration, as `docker images` and
	// the CRI show it.
	ID digest.Digest `json:"id"`
	// Size is the sum of the blobs' sizes, in bytes.
	Size int64 `json:"size"`
	// LoadedAt tells one load of a name from the next; of a pulled image it is
	// the last pull that brought it here.
	LoadedAt time.Time `json:"loadedAt"`
	// Target is what the name stands for: a manifest, or an index of several.
	Target ocispec.Descriptor `json:"target"`
	// Blobs are all blobs of the image for this host's platform, Target first.
	Blobs []ocispec.Descriptor `json:"blobs"`
	// Layers are the chain ids of the unpacked layers, lowest first; empty
	// when the store's file system cannot hold them.
	Layers []digest.Digest `json:"layers,omitempty"`
}

// index is the content of index.json.
type index struct {
	Images []Image `json:"images"`
	// Pulled are images that nodes have pulled, the earliest first: they
	// have no name here, see Keep.
	Pulled []Image `json:"pulled,omitempty"`
	// Deleted images are hidden, and kept for as long as a node uses them.
	Deleted []Image `json:"deleted,omitempty"`
}

func indexFile(store string) string { return filepath.Join(store, "index.json") }

func blobFile(store string, d digest.Digest) string {
	return filepath.Join(store, "content", "blobs", d.Algorithm().String(), d.Encoded())
}

// layerDir holds one unpacked layer in fs. The chain id goes without its
// algorithm: a colon separates directories in overlayfs' options.
func layerDir(store string, chain digest.Digest) string {
	return filepath.Join(store, "layers", chain.Encoded())
}

func readIndex(store string) (index, error) {
	var i index
	data, err := os.ReadFile(indexFile(store))
	if errors.Is(err, os.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(data, &i); err != nil {
		return i, fmt.Errorf("read %s: %w", indexFile(store), err)
	}
	return i, nil
}

func writeIndex(store string, i index) error {
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	aside := indexFile(store) + ".new"
	if err := os.WriteFile(aside, data, 0o644); err != nil {
		return err
	}
	return os.Rename(aside, indexFile(store))
}

// put makes images current; older ones of the same names become deleted ones.
func (i *index) put(images []Image) {
	for _, image := range images {
		i.remove(image.Name)
		i.Images = append(i.Images, image)
	}
	slices.SortFunc(i.Images, func(a, b Image) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
}

func (i *index) remove(name string) bool {
	at := slices.IndexFunc(i.Images, func(image Image) bool { return image.Name == name })
	if at < 0 {
		return false
	}
	i.Deleted = append(i.Deleted, i.Images[at])
	i.Images = slices.Delete(i.Images, at, at+1)
	return true
}

// lock makes the caller the only one to change the store.
func lock(store string) (unlock func(), err error) {
	if err := os.MkdirAll(store, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(store, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { f.Close() }, nil
}

// List returns the images of a store, sorted by name. A store that does not
// exist has none.
func List(store string) ([]Image, error) {
	i, err := readIndex(store)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	if i.Images == nil {
		i.Images = []Image{}
	}
	return i.Images, nil
}

// Delete removes a name from a store, and with the last name of an image what
// no node uses of it.
func Delete(store, name string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("delete image %s: %w", name, err)
		}
	}()
	normal, err := reference.ParseDockerRef(name)
	if err != nil {
		return err
	}
	unlock, err := lock(store)
	if err != nil {
		return err
	}
	defer unlock()
	i, err := readIndex(store)
	if err != nil {
		return err
	}
	if !i.remove(normal.String()) {
		return ErrNotFound
	}
	if err := writeIndex(store, i); err != nil {
		return err
	}
	return sweep(store)
}
