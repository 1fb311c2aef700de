package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
)

const busybox = "docker.io/library/busybox:test"

func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes namespaces, mounts and cgroups")
	}
}

// node is a node under test.
type node struct {
	tb     testing.TB
	cfg    Config
	r      *Runtime
	cri    internalapi.RuntimeService
	images internalapi.ImageManagerService
	pods   int
}

// newNode prepares directories with the busybox image in the shared store.
func newNode(tb testing.TB) *node {
	tb.Helper()
	needRoot(tb)
	dir, err := os.MkdirTemp("/tmp", "rt") // short: unix sockets
	must(tb, err)
	must(tb, os.Chmod(dir, 0o711)) // users of user namespaces look through it
	n := &node{tb: tb, cfg: Config{
		Root: dir + "/root", State: dir + "/state", Socket: dir + "/cri.sock",
		ImageStore: dir + "/images", LibexecDir: libexec(tb), CgroupParent: cgroup,
	}}
	must(tb, os.MkdirAll(n.cfg.State, 0o711))
	must(tb, unix.Mount("tmpfs", n.cfg.State, "tmpfs", 0, "mode=711"))
	tb.Cleanup(func() {
		for mount := range mounts() {
			if strings.HasPrefix(mount, n.cfg.State+"/") {
				tb.Errorf("left behind: mount %s", mount)
			}
		}
		// containerd does not close its database of mounts.
		must(tb, unix.Unmount(n.cfg.State, unix.MNT_DETACH))
		must(tb, os.RemoveAll(dir))
	})
	n.load(busybox, busyboxImage(tb))
	return n
}

// libexec is where the programs are: built by `make build`.
func libexec(tb testing.TB) string {
	tb.Helper()
	dir := os.Getenv("SKIFF_LIBEXEC")
	if dir == "" {
		dir = "../../bin/libexec/skiff"
	}
	dir, err := filepath.Abs(dir)
	must(tb, err)
	for _, program := range []string{"skiff-shim", "skiff-pause", "runc"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			tb.Fatalf("%v; run: make build", err)
		}
	}
	return dir
}

// start runs the node's containerd in this process, and ends with the test
// what it started.
func (n *node) start() *node {
	n.tb.Helper()
	n.run()
	n.tb.Cleanup(func() {
		n.removeAll()
		must(n.tb, n.r.Close())
		n.killShim()
	})
	return n
}

func (n *node) run() {
	n.tb.Helper()
	log, err := os.CreateTemp("", "runtime-log")
	must(n.tb, err)
	n.tb.Cleanup(func() {
		if n.tb.Failed() {
			data, _ := os.ReadFile(log.Name())
			n.tb.Logf("log of the node:\n%s", data)
		}
		must(n.tb, os.Remove(log.Name()))
	})
	level := slog.LevelInfo
	if os.Getenv("SKIFF_RUNTIME_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	n.cfg.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level}))
	n.r, err = Start(context.Background(), n.cfg)
	must(n.tb, err)
	n.cri, n.images = n.r.RuntimeService(), n.r.ImageService()
}

// stop ends the node process's half; containers go on.
func (n *node) stop() {
	n.tb.Helper()
	must(n.tb, n.r.Close())
}

func (n *node) removeAll() {
	n.tb.Helper()
	ctx := context.Background()
	sandboxes, err := n.cri.ListPodSandbox(ctx, nil)
	must(n.tb, err)
	for _, sandbox := range sandboxes {
		n.remove(sandbox.Id)
	}
}

// remove removes a pod, and its cgroup as the kubelet does.
func (n *node) remove(id string) {
	n.tb.Helper()
	ctx := context.Background()
	must(n.tb, n.cri.StopPodSandbox(ctx, id))
	must(n.tb, n.cri.RemovePodSandbox(ctx, id))
}

func (n *node) shimPID() int {
	n.tb.Helper()
	var shim struct{ PID int }
	data, err := os.ReadFile(filepath.Join(n.cfg.State, "shim/shim.json"))
	if os.IsNotExist(err) {
		return 0 // no pod, no shim
	}
	must(n.tb, err)
	must(n.tb, json.Unmarshal(data, &shim))
	return shim.PID
}

func (n *node) killShim() {
	n.tb.Helper()
	pid := n.shimPID()
	if pid == 0 {
		return
	}
	must(n.tb, unix.Kill(pid, unix.SIGKILL))
	eventually(n.tb, "end of the shim", func() error {
		// It is ours, or init's by now.
		unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if unix.Kill(pid, 0) == nil {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	})
}

// load puts an image into the shared store, as `skiff load` does.
func (n *node) load(ref string, img v1.Image) imagestore.Image {
	n.tb.Helper()
	tag, err := name.NewTag(ref)
	must(n.tb, err)
	var archive bytes.Buffer
	must(n.tb, tarball.Write(tag, img, &archive))
	loaded, err := imagestore.Load(context.Background(), n.cfg.ImageStore, &archive)
	must(n.tb, err)
	return loaded[0]
}

// busyboxImage is the host's static busybox with the applets the tests use.
func busyboxImage(tb testing.TB) v1.Image {
	tb.Helper()
	program, err := os.ReadFile("/bin/busybox")
	must(tb, err)
	entries := []tar.Header{
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program))},
	}
	for _, applet := range []string{"sh", "echo", "cat", "sleep", "hostname", "id", "ls", "readlink", "nc", "grep", "df", "stat", "kill", "touch"} {
		entries = append(entries, tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	return image(tb, entries, program)
}

// image is an image of one layer; all regular files have the same content.
func image(tb testing.TB, entries []tar.Header, content []byte) v1.Image {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, entry := range entries {
		must(tb, w.WriteHeader(&entry))
		if entry.Typeflag == tar.TypeReg {
			_, err := w.Write(content)
			must(tb, err)
		}
	}
	must(tb, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	})
	must(tb, err)
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: "amd64", OS: "linux",
		Config: v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sleep", "1d"}},
	})
	must(tb, err)
	img, err = mutate.AppendLayers(img, layer)
	must(tb, err)
	return img
}

// pod is a running sandbox.
type pod struct {
	*node
	id     string
	config *runtimeapi.PodSandboxConfig
}

// runPod runs a pod; change may be nil.
func (n *node) runPod(change func(*runtimeapi.PodSandboxConfig)) *pod {
	n.tb.Helper()
	return n.runPodBy("", change)
}

// runPodBy is runPod with the handler of a RuntimeClass.
func (n *node) runPodBy(handler string, change func(*runtimeapi.PodSandboxConfig)) *pod {
	n.tb.Helper()
	n.pods++
	config := podConfig(fmt.Sprintf("pod-%d", n.pods), n.cfg.Root)
	if change != nil {
		change(config)
	}
	id, err := n.cri.RunPodSandbox(n.tb.Context(), config, handler)
	must(n.tb, err)
	return &pod{node: n, id: id, config: config}
}

func podConfig(name, root string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		Hostname:     name,
		LogDirectory: filepath.Join(root, "logs", name),
		DnsConfig: &runtimeapi.DNSConfig{
			Servers: []string{"10.96.0.10"}, Searches: []string{"cluster.local"}, Options: []string{"ndots:5"},
		},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			},
		},
	}
}

// runContainer starts a container with a shell script; change may be nil.
func (p *pod) runContainer(name, script string, change func(*runtimeapi.ContainerConfig)) string {
	p.tb.Helper()
	config := containerConfig(p.config, name, script)
	if change != nil {
		change(config)
	}
	id, err := p.cri.CreateContainer(p.tb.Context(), p.id, config, p.config)
	must(p.tb, err)
	must(p.tb, p.cri.StartContainer(p.tb.Context(), id))
	return id
}

func containerConfig(pod *runtimeapi.PodSandboxConfig, name, script string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: busybox},
		Command:  []string{"sh", "-c", script},
		LogPath:  name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: pod.GetLinux().GetSecurityContext().GetNamespaceOptions(),
			},
		},
	}
}

// exec runs a shell script in a container and returns what it prints.
func (n *node) exec(container, script string) string {
	n.tb.Helper()
	stdout, stderr, err := n.cri.ExecSync(n.tb.Context(), container, []string{"sh", "-c", script}, 10*time.Second)
	if err != nil {
		n.tb.Fatalf("exec %q: %v %s", script, err, stderr)
	}
	return string(bytes.TrimSpace(stdout))
}

func (n *node) status(container string) *runtimeapi.ContainerStatus {
	n.tb.Helper()
	status, err := n.cri.ContainerStatus(n.tb.Context(), container, false)
	must(n.tb, err)
	return status.Status
}

// waitExit waits until a container has ended.
func (n *node) waitExit(container string) *runtimeapi.ContainerStatus {
	n.tb.Helper()
	var last *runtimeapi.ContainerStatus
	eventually(n.tb, "end of the container", func() error {
		last = n.status(container)
		if last.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			return fmt.Errorf("it is %s", last.State)
		}
		return nil
	})
	return last
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// eventually waits for something that another process does.
func eventually(tb testing.TB, what string, check func() error) {
	tb.Helper()
	within(tb, time.Minute, what, check)
}

func within(tb testing.TB, limit time.Duration, what string, check func() error) {
	tb.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
