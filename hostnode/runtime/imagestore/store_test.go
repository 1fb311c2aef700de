package imagestore

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: unpacking sets owners and whiteouts")
	}
}

// file is one entry of a layer; a name that ends in / is a directory.
type file struct{ name, content string }

func layer(t *testing.T, files ...file) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			header.Typeflag, header.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func image(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{Architecture: "amd64", OS: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, layers...); err != nil {
		t.Fatal(err)
	}
	return img
}

// dockerArchive is what `docker save` writes.
func dockerArchive(t *testing.T, images map[string]v1.Image) []byte {
	t.Helper()
	tagged := map[name.Tag]v1.Image{}
	for ref, img := range images {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		tagged[tag] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiWrite(tagged, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// ociArchive is an OCI layout as a tar file.
func ociArchive(t *testing.T, annotations map[string]string, img v1.Image) []byte {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(img, layout.WithAnnotations(annotations)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	l := layer(t, file{name, content})
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// tree lists all that is in a store but its lock.
func tree(t *testing.T, store string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(store, func(path string, d os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(store, path); err == nil && !d.IsDir() && rel != "lock" {
			all = append(all, rel)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}

func TestLoadTakesEveryKindOfArchive(t *testing.T) {
	needRoot(t)
	img := image(t, layer(t, file{"etc/", ""}, file{"etc/app.conf", "a=1"}))
	docker := dockerArchive(t, map[string]v1.Image{"app:1": img})
	for _, c := range []struct {
		name    string
		archive []byte
		want    string
	}{
		{"docker save", docker, "docker.io/library/app:1"},
		{"docker save, gzip", gzipped(t, docker), "docker.io/library/app:1"},
		{"docker save, zstd", zstandard(t, docker), "docker.io/library/app:1"},
		{"docker save of another registry", dockerArchive(t, map[string]v1.Image{"ghcr.io/x/app:2": img}), "ghcr.io/x/app:2"},
		{"OCI layout with containerd's name", ociArchive(t, map[string]string{"io.containerd.image.name": "docker.io/library/app:3"}, img), "docker.io/library/app:3"},
		{"OCI layout with a full reference", ociArchive(t, map[string]string{"org.opencontainers.image.ref.name": "app:4"}, img), "docker.io/library/app:4"},
		{"OCI layout, gzip", gzipped(t, ociArchive(t, map[string]string{"org.opencontainers.image.ref.name": "localhost/app:5"}, img)), "localhost/app:5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := t.TempDir()
			loaded, err := Load(t.Context(), store, bytes.NewReader(c.archive))
			if err != nil {
				t.Fatal(err)
			}
			if len(loaded) != 1 || loaded[0].Name != c.want {
				t.Fatalf("loaded %+v, want %s", loaded, c.want)
			}
			id, err := img.ConfigName()
			if err != nil {
				t.Fatal(err)
			}
			if got := loaded[0].ID.String(); got != id.String() {
				t.Errorf("id %s, want %s", got, id)
			}
			listed, err := List(store)
			if err != nil || len(listed) != 1 || listed[0].Name != c.want {
				t.Errorf("list: %v, %v", listed, err)
			}
			content, err := os.ReadFile(filepath.Join(layerDir(store, loaded[0].Layers[0]), "fs/etc/app.conf"))
			if err != nil || string(content) != "a=1" {
				t.Errorf("unpacked file: %q, %v", content, err)
			}
			for _, blob := range loaded[0].Blobs {
				data, err := os.ReadFile(blobFile(store, blob.Digest))
				if err != nil || digest.FromBytes(data) != blob.Digest {
					t.Errorf("blob %s: %v", blob.Digest, err)
				}
			}
			if _, err := os.Stat(filepath.Join(store, "tmp")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("work directory is left: %v", err)
			}
		})
	}
}

func TestLoadUnpacksForOverlayfs(t *testing.T) {
	needRoot(t)
	store := t.TempDir()
	img := image(t,
		layer(t, file{"d/", ""}, file{"d/gone", "x"}, file{"o/", ""}, file{"o/old", "x"}),
		layer(t, file{"d/.wh.gone", ""}, file{"o/", ""}, file{"o/.wh..wh..opq", ""}, file{"o/new", "y"}),
	)
	loaded, err := Load(t.Context(), store, bytes.NewReader(dockerArchive(t, map[string]v1.Image{"app": img})))
	if err != nil {
		t.Fatal(err)
	}
	top := filepath.Join(layerDir(store, loaded[0].Layers[1]), "fs")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(top, "d/gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("whiteout: mode %o, device %d, %v", st.Mode, st.Rdev, err)
	}
	value := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(top, "o"), "trusted.overlay.opaque", value); err != nil || string(value[:n]) != "y" {
		t.Errorf("opaque directory: %q, %v", value[:max(n, 0)], err)
	}
}

func TestLoadSharesLayersAndReplacesNames(t *testing.T) {
	needRoot(t)
	store := t.TempDir()
	base := layer(t, file{"base", "b"})
	first := image(t, base, layer(t, file{"one", "1"}))
	second := image(t, base, layer(t, file{"two", "2"}))
	a, err := Load(t.Context(), store, bytes.NewReader(dockerArchive(t, map[string]v1.Image{"app": first, "app:same": first})))
	if err != nil || len(a) != 2 {
		t.Fatal(a, err)
	}
	b, err := Load(t.Context(), store, bytes.NewReader(dockerArchive(t, map[string]v1.Image{"app": second})))
	if err != nil {
		t.Fatal(err)
	}
	if a[0].Layers[0] != b[0].Layers[0] {
		t.Fatal("the images do not share their base; the test is wrong")
	}
	listed, err := List(store)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range listed {
		names = append(names, i.Name)
	}
	if want := []string{"docker.io/library/app:latest", "docker.io/library/app:same"}; !slices.Equal(names, want) {
		t.Fatalf("names %v, want %v", names, want)
	}
	if listed[0].ID != b[0].ID {
		t.Error("app:latest is not the image loaded last")
	}
	// Deleting one name keeps what the other needs.
	if err := Delete(store, "app:same"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(layerDir(store, a[0].Layers[1])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("layer of the deleted image: %v", err)
	}
	if _, err := os.Stat(layerDir(store, a[0].Layers[0])); err != nil {
		t.Errorf("shared layer: %v", err)
	}
	if err := Delete(store, "app"); err != nil {
		t.Fatal(err)
	}
	if left := tree(t, store); !slices.Equal(left, []string{"index.json"}) {
		t.Errorf("an empty store holds %v", left)
	}
	if err := Delete(store, "app"); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete of what is gone: %v", err)
	}
}

func TestDeleteSparesWhatANodeUses(t *testing.T) {
	needRoot(t)
	store := t.TempDir()
	loaded, err := Load(t.Context(), store, bytes.NewReader(dockerArchive(t, map[string]v1.Image{"app": image(t, layer(t, file{"f", "x"}))})))
	if err != nil {
		t.Fatal(err)
	}
	node := NewReader(store)
	fs, held, err := node.Layer(loaded[0].Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := Delete(store, "app"); err != nil {
		t.Fatal(err)
	}
	if images, err := node.Images(); err != nil || len(images) != 0 {
		t.Errorf("node sees %v, %v", images, err)
	}
	if _, err := os.Stat(filepath.Join(fs, "f")); err != nil {
		t.Errorf("layer in use: %v", err)
	}
	for _, blob := range loaded[0].Blobs {
		if _, err := os.Stat(node.Blob(blob.Digest)); err != nil {
			t.Errorf("blob in use: %v", err)
		}
	}
	held.Close()
	// The next change sweeps.
	if _, err := Load(t.Context(), store, bytes.NewReader(dockerArchive(t, map[string]v1.Image{"other": image(t, layer(t, file{"g", "y"}))}))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := node.Layer(loaded[0].Layers[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("layer of the deleted image: %v", err)
	}
}

func TestLoadRefusesBadArchivesWhole(t *testing.T) {
	needRoot(t)
	good := dockerArchive(t, map[string]v1.Image{"app": image(t, layer(t, file{"f", strings.Repeat("x", 1<<16)}))})
	flipped := bytes.Clone(gzipped(t, good))
	flipped[len(flipped)-6] ^= 0xff // in the checksum
	damaged := bytes.Clone(good)
	// A byte in the middle of the layer's compressed data.
	damaged[bytes.Index(damaged, []byte{0x1f, 0x8b, 0x08})+40] ^= 0xff
	img := image(t, layer(t, file{"f", "x"}))
	for _, c := range []struct {
		name    string
		archive []byte
		want    string
	}{
		{"empty file", nil, "unrecognized image format"},
		{"no archive", []byte("hello, world, this is no archive at all"), ""},
		{"truncated", good[:len(good)/3], ""},
		{"truncated gzip", gzipped(t, good)[:200], ""},
		{"wrong checksum of the archive", flipped, "checksum"},
		{"damaged layer", damaged, "layer"},
		{"a tar of something else", tarOf(t, "README", "hello"), "unrecognized image format"},
		{"without names", ociArchive(t, nil, img), "names no image"},
		{"only a tag for a name", ociArchive(t, map[string]string{"org.opencontainers.image.ref.name": "latest"}, img), "a tag without a repository"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := t.TempDir()
			_, err := Load(t.Context(), store, bytes.NewReader(c.archive))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one error: %v", err)
			}
			if left := tree(t, store); len(left) > 0 {
				t.Errorf("half-made: %v", left)
			}
		})
	}
}

func TestReaderSeesEveryLoad(t *testing.T) {
	needRoot(t)
	store := t.TempDir()
	node := NewReader(store)
	if images, err := node.Images(); err != nil || images != nil {
		t.Fatal(images, err)
	}
	for _, content := range []string{"1", "2", "3"} {
		loaded, err := Load(t.Context(), store, bytes.NewReader(dockerArchive(t, map[string]v1.Image{"app": image(t, layer(t, file{"f", content}))})))
		if err != nil {
			t.Fatal(err)
		}
		images, err := node.Images()
		if err != nil || len(images) != 1 || images[0].ID != loaded[0].ID {
			t.Fatalf("after load of %s: %v, %v", content, images, err)
		}
	}
}
