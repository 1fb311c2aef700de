package runtime

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
)

// oneFile is an image with the file /f.
func oneFile(tb testing.TB, content string) v1.Image {
	return image(tb, []tar.Header{{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}}, []byte(content))
}

func (n *node) imageStatus(ref string) *runtimeapi.Image {
	n.tb.Helper()
	response, err := n.images.ImageStatus(n.tb.Context(), &runtimeapi.ImageSpec{Image: ref}, false)
	must(n.tb, err)
	return response.Image
}

func TestLoadedImageIsThereAtOnce(t *testing.T) {
	n := newNode(t).start()
	if i := n.imageStatus("app:1"); i != nil {
		t.Fatalf("image before it is loaded: %v", i)
	}
	loaded := n.load("app:1", oneFile(t, "one"))
	want := loaded.ID.String()
	for _, ref := range []string{
		"app:1", "docker.io/library/app:1", "docker.io/app:1", want,
		"docker.io/library/app@" + loaded.Target.Digest.String(),
		"app:1@" + loaded.Target.Digest.String(),
	} {
		if i := n.imageStatus(ref); i == nil || i.Id != want {
			t.Errorf("image %s: %v, want %s", ref, i, want)
		}
	}
	for _, ref := range []string{"app:2", "app", "ghcr.io/library/app:1", "app@sha256:" + strings.Repeat("0", 64)} {
		if i := n.imageStatus(ref); i != nil {
			t.Errorf("image %s: %v, want none", ref, i)
		}
	}
	ref, err := n.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: "app:1"}, nil, nil)
	if err != nil || ref != want {
		t.Errorf("pull: %q, %v, want %s", ref, err, want)
	}

	// The same name, loaded again, means the new image.
	again := n.load("app:1", oneFile(t, "two")).ID.String()
	if i := n.imageStatus("app:1"); i == nil || i.Id != again {
		t.Errorf("image after the second load: %v, want %s", i, again)
	}
	// A list has what nobody has asked for.
	n.load("other:1", oneFile(t, "three"))
	images, err := n.images.ListImages(t.Context(), nil)
	must(t, err)
	tags := map[string]bool{}
	for _, i := range images {
		for _, tag := range i.RepoTags {
			tags[tag] = true
		}
	}
	if !tags["docker.io/library/other:1"] || !tags[busybox] {
		t.Errorf("listed: %v", tags)
	}
}

func TestContainersRunFromTheSharedStore(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	c := p.runContainer("a", "echo mine > /f; sleep 1d", func(config *runtimeapi.ContainerConfig) {
		config.Mounts = []*runtimeapi.Mount{{
			ContainerPath: "/volume", Readonly: true,
			Image: &runtimeapi.ImageSpec{Image: n.load("volume:1", oneFile(t, "from an image")).Name},
		}}
	})
	if got := n.exec(c, "cat /f /volume/f"); got != "mine\nfrom an image" {
		t.Errorf("files: %q", got)
	}
	if blobs, _ := filepath.Glob(filepath.Join(n.cfg.Root, "io.containerd.content.v1.content/blobs/sha256/*")); len(blobs) > 0 {
		t.Errorf("blobs were copied: %v", blobs)
	}
	var links int
	dirs, err := filepath.Glob(filepath.Join(n.cfg.Root, "io.containerd.snapshotter.v1.skiff/snapshots/*/fs"))
	must(t, err)
	for _, dir := range dirs {
		if target, err := os.Readlink(dir); err == nil {
			links++
			if !strings.HasPrefix(target, n.cfg.ImageStore) {
				t.Errorf("link to %s", target)
			}
		}
	}
	if links != 2 { // busybox and the volume
		t.Errorf("%d layers are shared, want 2", links)
	}
}

func TestRemovedImageStaysRemovedAndTheStoreWhole(t *testing.T) {
	n := newNode(t)
	n.run()
	before := storeFiles(t, n.cfg.ImageStore)
	if n.imageStatus(busybox) == nil {
		t.Fatal("no image")
	}
	must(t, n.images.RemoveImage(t.Context(), &runtimeapi.ImageSpec{Image: busybox}))
	check := func() {
		t.Helper()
		if i := n.imageStatus(busybox); i != nil {
			t.Errorf("image after its removal: %v", i)
		}
		images, err := n.images.ListImages(t.Context(), nil)
		must(t, err)
		if len(images) > 0 {
			t.Errorf("listed after removal: %v", images)
		}
	}
	check()
	eventually(t, "garbage collection", func() error {
		dirs, _ := filepath.Glob(filepath.Join(n.cfg.Root, "io.containerd.snapshotter.v1.skiff/snapshots/*"))
		if len(dirs) > 0 {
			return fmt.Errorf("snapshots: %v", dirs)
		}
		return nil
	})
	if after := storeFiles(t, n.cfg.ImageStore); after != before {
		t.Errorf("the store was changed: %s, before %s", after, before)
	}
	n.stop()
	n.start() // it is remembered
	check()
	// Who pulls it wants it.
	if _, err := n.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: busybox}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := n.exec(n.runPod(nil).runContainer("a", "sleep 1d", nil), "echo works"); got != "works" {
		t.Errorf("container: %q", got)
	}
}

// storeFiles is a fingerprint of a store.
func storeFiles(tb testing.TB, store string) string {
	tb.Helper()
	var b strings.Builder
	must(tb, filepath.WalkDir(store, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Size(), info.ModTime())
		return nil
	}))
	return b.String()
}

func TestAdoptionSurvivesRestartsAndReadOnlyStores(t *testing.T) {
	n := newNode(t)
	// Nodes have the store read-only.
	must(t, unix.Mount(n.cfg.ImageStore, n.cfg.ImageStore, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", n.cfg.ImageStore, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	t.Cleanup(func() { must(t, unix.Unmount(n.cfg.ImageStore, unix.MNT_DETACH)) })
	n.run()
	first := n.imageStatus(busybox)
	n.stop()
	n.start()
	if second := n.imageStatus(busybox); second == nil || second.Id != first.Id {
		t.Fatalf("after a restart: %v", second)
	}
	if got := n.exec(n.runPod(nil).runContainer("a", "sleep 1d", nil), "echo works"); got != "works" {
		t.Errorf("container: %q", got)
	}
	// In use by this node, so it stays when the host deletes it.
	must(t, unix.Mount("", n.cfg.ImageStore, "", unix.MS_BIND|unix.MS_REMOUNT, ""))
	must(t, imagestore.Delete(n.cfg.ImageStore, busybox))
	if got := n.exec(n.runPod(nil).runContainer("b", "sleep 1d", nil), "echo works"); got != "works" {
		t.Errorf("container of a deleted image that the node has: %q", got)
	}
}

func TestPullFromRegistryIsPrivate(t *testing.T) {
	n := newNode(t).start()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()

	// A mirror in certs.d stands for a registry that cannot be reached.
	hosts := filepath.Join("/etc/containerd/certs.d", "registry.example")
	must(t, unix.Mount("tmpfs", "/etc", "tmpfs", 0, "mode=755")) // the tests' own mount namespace
	defer func() { must(t, unix.Unmount("/etc", unix.MNT_DETACH)) }()
	must(t, os.MkdirAll(hosts, 0o755))
	must(t, os.WriteFile(filepath.Join(hosts, "hosts.toml"), fmt.Appendf(nil, "[host.%q]\n", server.URL), 0o644))

	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/team/app:1")
	must(t, err)
	must(t, remote.Write(ref, busyboxImage(t)))
	const mirrored = "registry.example/team/app:1"
	if i := n.imageStatus(mirrored); i != nil {
		t.Fatalf("before the pull: %v", i)
	}
	id, err := n.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: mirrored}, nil, nil)
	must(t, err)
	if i := n.imageStatus(mirrored); i == nil || i.Id != id {
		t.Errorf("after the pull: %v, want %s", i, id)
	}
	p := n.runPod(nil)
	c := p.runContainer("a", "sleep 1d", func(config *runtimeapi.ContainerConfig) { config.Image.Image = id })
	if got := n.exec(c, "echo works"); got != "works" {
		t.Errorf("container: %q", got)
	}
	listed, err := imagestore.List(n.cfg.ImageStore)
	must(t, err)
	if len(listed) != 1 {
		t.Errorf("the shared store has %v", listed)
	}
	if _, err := n.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: "registry.example/team/none:1"}, nil, nil); err == nil {
		t.Error("pull of an image that does not exist: no error")
	}
}

func TestDataDirectoryOnOverlayfsFallsBackToCopies(t *testing.T) {
	n := newNode(t)
	dir := filepath.Dir(n.cfg.Root)
	for _, sub := range []string{"lower", "upper", "work", "root"} {
		must(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	must(t, unix.Mount("overlay", n.cfg.Root, "overlay", 0,
		fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, dir, dir)))
	t.Cleanup(func() { must(t, unix.Unmount(n.cfg.Root, unix.MNT_DETACH)) })
	n.start()
	if got := n.exec(n.runPod(nil).runContainer("a", "sleep 1d", nil), "echo works"); got != "works" {
		t.Errorf("container: %q", got)
	}
}

func TestDamagedStoreIsAnErrorNotAnAbsence(t *testing.T) {
	n := newNode(t).start()
	must(t, os.WriteFile(filepath.Join(n.cfg.ImageStore, "index.json"), []byte("{"), 0o644))
	_, err := n.images.ImageStatus(t.Context(), &runtimeapi.ImageSpec{Image: busybox}, false)
	if err == nil || !strings.Contains(err.Error(), "index.json") {
		t.Errorf("status with a damaged index: %v", err)
	}
	if err != nil && errors.Is(err, os.ErrNotExist) {
		t.Errorf("taken for an absence: %v", err)
	}
}
