package runtime

import (
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
)

// sharePulls gives the node what a supervisor would: locks, and somebody who
// keeps archives.
func (n *node) sharePulls() {
	n.tb.Helper()
	// A file system of its own: how full the machine's is must not decide what
	// is kept.
	must(n.tb, unix.Mount("tmpfs", n.cfg.ImageStore, "tmpfs", 0, "mode=755"))
	n.tb.Cleanup(func() { must(n.tb, unix.Unmount(n.cfg.ImageStore, unix.MNT_DETACH)) })
	n.cfg.PulledDir = filepath.Join(filepath.Dir(n.cfg.Root), "pulled")
	must(n.tb, os.Mkdir(n.cfg.PulledDir, 0o700))
	for i := range machine.PulledLocks {
		must(n.tb, os.WriteFile(filepath.Join(n.cfg.PulledDir, strconv.Itoa(i)), nil, 0o600))
	}
	l, err := net.Listen("unix", filepath.Join(n.cfg.PulledDir, machine.PulledSocket))
	must(n.tb, err)
	n.tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			kept, err := imagestore.Keep(n.tb.Context(), n.cfg.ImageStore, conn)
			if err != nil {
				n.tb.Error(err)
			} else if err := json.NewEncoder(conn).Encode(kept); err != nil {
				n.tb.Error(err)
			}
			conn.Close()
		}
	}()
}

// downloads counts the layers and configurations that are fetched.
func downloads(handler http.Handler, count *atomic.Int32) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			count.Add(1)
		}
		handler.ServeHTTP(w, r)
	})
}

func TestAnImageIsDownloadedAndUnpackedOnceAHost(t *testing.T) {
	n := newNode(t)
	n.sharePulls()
	var blobs atomic.Int32
	server := httptest.NewServer(downloads(registry.New(registry.Logger(log.New(io.Discard, "", 0))), &blobs))
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/team/app:1")
	must(t, err)
	must(t, remote.Write(ref, busyboxImage(t)))
	app := &runtimeapi.ImageSpec{Image: ref.Name()}

	n.run()
	id, err := n.images.PullImage(t.Context(), app, nil, nil)
	must(t, err)
	eventually(t, "the next one's turn", func() error {
		done, err := n.r.service.pulls.turn(t.Context(), app.Image)
		if err == nil {
			done()
		}
		return err
	})
	first := blobs.Load()
	if first == 0 {
		t.Error("the first node downloaded nothing")
	}
	n.stop()
	n.killShim()

	// Another node of the host.
	n.cfg.Root += "2"
	must(t, unix.Unmount(n.cfg.State, unix.MNT_DETACH))
	must(t, unix.Mount("tmpfs", n.cfg.State, "tmpfs", 0, "mode=711"))
	n.start()
	if i := n.imageStatus(app.Image); i != nil {
		t.Errorf("it is there without a pull: %v", i)
	}
	again, err := n.images.PullImage(t.Context(), app, nil, nil)
	if err != nil || again != id {
		t.Errorf("second pull: %s, %v, want %s", again, err, id)
	}
	if now := blobs.Load(); now != first {
		t.Errorf("the second node downloaded %d blobs", now-first)
	}
	p := n.runPod(nil)
	c := p.runContainer("a", "sleep 1d", func(config *runtimeapi.ContainerConfig) { config.Image.Image = id })
	if got := n.exec(c, "echo works"); got != "works" {
		t.Errorf("container: %q", got)
	}
	dirs, err := filepath.Glob(filepath.Join(n.cfg.Root, "io.containerd.snapshotter.v1.skiff/snapshots/*/fs/bin"))
	must(t, err)
	for _, dir := range dirs {
		if real, err := filepath.EvalSymlinks(dir); err != nil || !strings.HasPrefix(real, n.cfg.ImageStore) {
			t.Errorf("unpacked again: %s, %v", real, err)
		}
	}
	if len(dirs) == 0 {
		t.Error("no layer found")
	}
	// The registry's word counts: without it there is no image.
	server.Close()
	if _, err := n.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: ref.Context().Name() + ":2"}, nil, nil); err == nil {
		t.Error("pull without a registry: no error")
	}
}

// TestAnImageOnALayerOfTheHostIsKept pulls one whose first layer the node does
// not download, as the host has it of another image.
func TestAnImageOnALayerOfTheHostIsKept(t *testing.T) {
	n := newNode(t)
	n.sharePulls()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/team/app:1")
	must(t, err)
	image := oneFile(t, "base")
	n.start()
	n.load("base:1", image)
	layers, err := oneFile(t, "app").Layers()
	must(t, err)
	image, err = mutate.AppendLayers(image, layers...)
	must(t, err)
	must(t, remote.Write(ref, image))
	_, err = n.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: ref.Name()}, nil, nil)
	must(t, err)
	want, err := image.Digest()
	must(t, err)
	eventually(t, "a copy for other nodes", func() error {
		_, err := os.Stat(imagestore.NewReader(n.cfg.ImageStore).Blob(digest.Digest(want.String())))
		return err
	})
}

func TestPullsOfTheSameImageTakeTurns(t *testing.T) {
	n := newNode(t)
	n.sharePulls()
	n.start()
	p := n.r.service.pulls
	done, err := p.turn(t.Context(), "app:1")
	must(t, err)
	entered := make(chan struct{})
	go func() {
		defer close(entered)
		other, err := p.turn(t.Context(), "app:1")
		if err != nil {
			t.Error(err)
			return
		}
		other()
	}()
	select {
	case <-entered:
		t.Error("two at a time")
	default:
	}
	done()
	<-entered
}

// damage flips a byte of every layer and configuration while on is set.
func damage(handler http.Handler, on *atomic.Bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !on.Load() || !strings.Contains(r.URL.Path, "/blobs/") {
			handler.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		body := answer.Body.Bytes()
		if len(body) > 0 {
			body[len(body)/2] ^= 1
		}
		_, _ = w.Write(body) // the client may have seen enough
	})
}

func TestADamagedLayerIsRefusedAndNothingOfItStays(t *testing.T) {
	n := newNode(t)
	n.sharePulls()
	n.start()
	var damaged atomic.Bool
	server := httptest.NewServer(damage(registry.New(registry.Logger(log.New(io.Discard, "", 0))), &damaged))
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/team/app:1")
	must(t, err)
	must(t, remote.Write(ref, busyboxImage(t)))
	app := &runtimeapi.ImageSpec{Image: ref.Name()}

	damaged.Store(true)
	if _, err := n.images.PullImage(t.Context(), app, nil, nil); err == nil || !strings.Contains(err.Error(), "sha256:") {
		t.Errorf("pull of a damaged image: %v, want an error that names the digest", err)
	}
	if i := n.imageStatus(app.Image); i != nil {
		t.Errorf("the node has it: %v", i)
	}
	damaged.Store(false)
	id, err := n.images.PullImage(t.Context(), app, nil, nil)
	must(t, err)
	p := n.runPod(nil)
	c := p.runContainer("a", "sleep 1d", func(config *runtimeapi.ContainerConfig) { config.Image.Image = id })
	if got := n.exec(c, "echo works"); got != "works" {
		t.Errorf("container: %q", got)
	}
}
