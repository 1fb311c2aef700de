package runtime

import (
	"cmp"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (n *node) listImages() []*runtimeapi.Image {
	n.tb.Helper()
	images, err := n.images.ListImages(n.tb.Context(), nil)
	must(n.tb, err)
	slices.SortFunc(images, func(a, b *runtimeapi.Image) int { return cmp.Compare(a.Id, b.Id) })
	for _, image := range images {
		slices.Sort(image.RepoTags)
		slices.Sort(image.RepoDigests)
	}
	return images
}

func (n *node) snapshots() []string {
	n.tb.Helper()
	dirs, err := filepath.Glob(filepath.Join(n.cfg.Root, "io.containerd.snapshotter.v1.skiff/snapshots/*"))
	must(n.tb, err)
	return dirs
}

// withUser is an image with two layers more.
func withUser(t *testing.T, content, user string) v1.Image {
	t.Helper()
	img := oneFile(t, content)
	for _, more := range []string{"more", "and more"} {
		layers, err := oneFile(t, more).Layers()
		must(t, err)
		img, err = mutate.AppendLayers(img, layers...)
		must(t, err)
	}
	img, err := mutate.Config(img, v1.Config{User: user})
	must(t, err)
	return img
}

func TestListedImagesCostNothingAndLookTheSameOnceUsed(t *testing.T) {
	n := newNode(t).start()
	two := withUser(t, "two", "")
	n.load("two:1", two)
	n.load("two:2", two)
	n.load("example.com/x/number:1", withUser(t, "number", "1000:50"))
	n.load("name:1", withUser(t, "name", "nobody"))

	before := n.listImages()
	if len(before) != 4 { // and busybox
		t.Fatalf("listed: %v", before)
	}
	if dirs := n.snapshots(); len(dirs) > 0 {
		t.Errorf("a list made snapshots: %v", dirs)
	}
	for _, image := range before {
		if got := n.imageStatus(image.Id); !proto.Equal(got, image) {
			t.Errorf("in the list:\n%v\nalone:\n%v", image, got)
		}
	}
	after := n.listImages()
	if !slices.EqualFunc(before, after, func(a, b *runtimeapi.Image) bool { return proto.Equal(a, b) }) {
		t.Errorf("before:\n%v\nafter:\n%v", before, after)
	}
}

func TestListFollowsNamesThatMove(t *testing.T) {
	n := newNode(t).start()
	must(t, n.images.RemoveImage(t.Context(), &runtimeapi.ImageSpec{Image: busybox}))
	n.load("app:1", oneFile(t, "one"))
	n.imageStatus("app:1")
	want := n.load("app:1", oneFile(t, "two")).ID.String()
	for _, image := range n.listImages() {
		if got := slices.Contains(image.RepoTags, "docker.io/library/app:1"); got != (image.Id == want) {
			t.Errorf("%v, want app:1 to be %s alone", image, want)
		}
	}
}

// TestStartsOfIDs is what crictl users type.
func TestStartsOfIDs(t *testing.T) {
	n := newNode(t).start()
	id := n.load("app:1", oneFile(t, "one")).ID
	short := id.Encoded()[:12]
	for _, ref := range []string{short, "sha256:" + short} {
		if i := n.imageStatus(ref); i == nil || i.Id != id.String() {
			t.Errorf("%s: %v, want %s", ref, i, id)
		}
	}
	other := n.load("app:2", oneFile(t, "two")).ID
	must(t, n.images.RemoveImage(t.Context(), &runtimeapi.ImageSpec{Image: other.Encoded()[:12]}))
	for _, image := range n.listImages() {
		if image.Id == other.String() {
			t.Errorf("listed after its removal: %v", image)
		}
	}
	// A pull is by name: the start of an id is none.
	if ref, err := n.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: short}, nil, nil); err == nil {
		t.Errorf("pull of %s: %s", short, ref)
	}
}
