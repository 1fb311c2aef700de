package docker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/docker"
	"github.com/skiff-k8s/skiff/test/images/dockerd"
)

func save(t *testing.T, host string, images ...string) ([]byte, error) {
	t.Helper()
	d, err := docker.New(host)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var archive bytes.Buffer
	if err = d.Check(t.Context(), images); err == nil {
		err = d.Save(t.Context(), images, &archive)
	}
	return archive.Bytes(), err
}

func TestSaveIsOneArchiveOfTheNamedImages(t *testing.T) {
	host, err := dockerd.Serve(t.Context(), filepath.Join(t.TempDir(), "s"), "a:v1", "registry.example/team/b:v2", "c:v3")
	if err != nil {
		t.Fatal(err)
	}
	archive, err := save(t, host, "a:v1", "registry.example/team/b:v2")
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, image := range manifest {
		tags = append(tags, image.RepoTags...)
	}
	if got := strings.Join(tags, " "); got != "a:v1 registry.example/team/b:v2" {
		t.Errorf("archive of %s", got)
	}
}

func TestAMissingImageIsNamed(t *testing.T) {
	host, err := dockerd.Serve(t.Context(), filepath.Join(t.TempDir(), "s"), "a:v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := save(t, host, "a:v1", "b:v1"); !errors.Is(err, docker.ErrNoImage) || !strings.Contains(err.Error(), `"b:v1"`) {
		t.Errorf("%v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, path := range []string{dead, filepath.Join(dir, "absent")} {
		if _, err := save(t, "unix://"+path, "a"); !errors.Is(err, docker.ErrAbsent) || strings.Count(err.Error(), path) != 1 {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestHostsThatNeedDockersOwnClient(t *testing.T) {
	for _, host := range []string{"ssh://me@there", "/var/run/docker.sock", "unix://", "npipe:////./pipe/docker"} {
		if _, err := docker.New(host); !errors.Is(err, docker.ErrHost) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// TestADaemonThatFails: what it says is passed on, and an archive that breaks
// off is an error.
func TestADaemonThatFails(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /images/full/json", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, `{"message":"no space left on device"}`)
	})
	mux.HandleFunc("GET /images/short/json", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /images/get", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	if _, err := save(t, "unix://"+path, "full"); err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("%v", err)
	}
	if _, err := save(t, "unix://"+path, "short"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}

func TestAnInterruptIsNotAnAbsentDaemon(t *testing.T) {
	d, err := docker.New("unix://" + filepath.Join(t.TempDir(), "absent"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Save(ctx, []string{"a"}, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
