package imagestore

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func keep(t *testing.T, store, name string, img v1.Image) Image {
	t.Helper()
	kept, err := Keep(t.Context(), store, bytes.NewReader(dockerArchive(t, map[string]v1.Image{name: img})))
	if err != nil {
		t.Fatal(err)
	}
	return kept[0]
}

// roomyStore is on a file system of its own: how full the machine's is must not
// decide what is kept.
func roomyStore(t *testing.T) string {
	t.Helper()
	needRoot(t)
	store := t.TempDir()
	if err := unix.Mount("tmpfs", store, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(store, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return store
}

// has says which images' unpacked layers a store has.
func has(t *testing.T, store string, images ...Image) (found []bool) {
	t.Helper()
	for _, image := range images {
		_, err := os.Stat(layerDir(store, image.Layers[len(image.Layers)-1]))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		found = append(found, err == nil)
	}
	return found
}

func TestKeptImagesHaveNoNameAndAllBytes(t *testing.T) {
	store := roomyStore(t)
	kept := keep(t, store, "app:1", image(t, layer(t, file{"f", "one"})))
	listed, err := List(store)
	if err != nil || len(listed) != 0 {
		t.Errorf("listed: %v, %v", listed, err)
	}
	reader := NewReader(store)
	if images, err := reader.Images(); err != nil || len(images) != 0 {
		t.Errorf("nodes see %v, %v", images, err)
	}
	for _, blob := range kept.Blobs {
		if _, err := os.Stat(reader.Blob(blob.Digest)); err != nil {
			t.Error(err)
		}
	}
	if _, held, err := reader.Layer(kept.Layers[0]); err != nil {
		t.Error(err)
	} else {
		held.Close()
	}
}

func TestATagThatMovedLetsItsOldImageGo(t *testing.T) {
	store := roomyStore(t)
	old := keep(t, store, "app:1", image(t, layer(t, file{"f", "one"})))
	used := keep(t, store, "used:1", image(t, layer(t, file{"f", "two"})))
	_, held, err := NewReader(store).Layer(used.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	moved := keep(t, store, "app:1", image(t, layer(t, file{"f", "three"})))
	keep(t, store, "used:1", image(t, layer(t, file{"f", "four"})))
	if got := has(t, store, old, used, moved); !slices.Equal(got, []bool{false, true, true}) {
		t.Errorf("old, used, moved: %v", got)
	}
}

func TestAnImageThatWasLoadedIsNotKeptTwice(t *testing.T) {
	store := roomyStore(t)
	img := image(t, layer(t, file{"f", "one"}))
	archive := dockerArchive(t, map[string]v1.Image{"app:1": img})
	if _, err := Load(t.Context(), store, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	keep(t, store, "app:1", img)
	i, err := readIndex(store)
	if err != nil || len(i.Images) != 1 || len(i.Pulled) != 0 {
		t.Errorf("index: %+v, %v", i, err)
	}
}

func TestKeptImagesMakeRoom(t *testing.T) {
	store := roomyStore(t)
	base := layer(t, file{"base", "of two"})
	images := map[string]v1.Image{
		"loaded:1": image(t, layer(t, file{"f", "loaded"})),
	}
	loaded, err := Load(t.Context(), store, bytes.NewReader(dockerArchive(t, images)))
	if err != nil {
		t.Fatal(err)
	}
	first := keep(t, store, "first:1", image(t, base, layer(t, file{"f", "first"})))
	used := keep(t, store, "used:1", image(t, layer(t, file{"f", "used"})))
	second := keep(t, store, "second:1", image(t, layer(t, file{"f", "second"})))
	last := keep(t, store, "last:1", image(t, base, layer(t, file{"f", "last"})))
	// Pulled again: first is now the one that was used last.
	keep(t, store, "first:1", image(t, base, layer(t, file{"f", "first"})))
	_, held, err := NewReader(store).Layer(used.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	readings := []int{highUsage + 1, highUsage, lowUsage}
	read := func() (int, error) {
		now := readings[0]
		readings = readings[1:]
		return now, nil
	}
	if err := makeRoom(store, read); err != nil {
		t.Fatal(err)
	}
	if got := has(t, store, loaded[0], first, used, second, last); !slices.Equal(got, []bool{true, true, true, false, false}) {
		t.Errorf("loaded, first, used, second, last: %v", got)
	}
	if got := has(t, store, Image{Layers: []digest.Digest{first.Layers[0]}}); !got[0] {
		t.Error("the layer that first shares with last is gone")
	}

	full := func() (int, error) { return 99, nil }
	err = makeRoom(store, full)
	if err == nil || !strings.Contains(err.Error(), "99 % full") {
		t.Errorf("full of what is in use: %v", err)
	}
	if got := has(t, store, loaded[0], first, used); !slices.Equal(got, []bool{true, false, true}) {
		t.Errorf("loaded, first, used: %v", got)
	}
}

func TestUsageIsThatOfDf(t *testing.T) {
	dir := t.TempDir()
	used, err := usage(dir)
	if err != nil || used < 1 || used > 100 {
		t.Errorf("usage: %d, %v", used, err)
	}
	if _, err := usage(dir + "/none"); err == nil || !strings.Contains(err.Error(), unix.ENOENT.Error()) {
		t.Errorf("usage of no directory: %v", err)
	}
}
