package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/cmd/containerd/server"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/cap"
	gocni "github.com/containerd/go-cni"
	"google.golang.org/grpc"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
	"github.com/skiff-k8s/skiff/hostnode/runtime/nodeshim"
)

// namespace is containerd's namespace of everything that CRI makes.
const namespace = "k8s.io"

// Config describes a node's containerd.
type Config struct {
	// Root is persistent; State is for one boot, on tmpfs. State must be
	// short: unix sockets are in it.
	Root, State string
	// Socket is where crictl finds the CRI; empty: nowhere.
	Socket string
	// LibexecDir holds skiff-shim, skiff-pause and runc.
	LibexecDir string
	// ImageStore is the host's shared image store, read-only here; empty:
	// there is none.
	ImageStore string
	// PulledDir is shared by the cluster's machines and its supervisor, see
	// machinev1alpha1.PulledDir; empty: what this node pulls is its own.
	PulledDir string
	// CgroupParent is the cgroup of pods that name none.
	CgroupParent string
	// CNI connects pods; nil: they have a loopback interface only, or are
	// connected by the plugin whose configuration is in CNIConfDir.
	CNI gocni.CNI
	// CNIConfDir and CNIBinDir leave the pod network to CNI programs, as
	// containerd does by itself; there is no network until a configuration
	// appears.
	CNIConfDir, CNIBinDir string
	// SeccompDefault runs containers that name no seccomp profile under
	// containerd's default one.
	SeccompDefault bool
	// Handlers are the programs of OCI runtimes beside runc, by the name that
	// RuntimeClasses call handler.
	Handlers map[string]string
	// StreamAddress is where exec, attach and port-forward streams are
	// served; the kubelet is their only client. Default 127.0.0.1:0.
	StreamAddress string
	// Log defaults to slog.Default().
	Log *slog.Logger
}

func (c *Config) check() error {
	for _, required := range []struct{ name, value string }{
		{"Root", c.Root}, {"State", c.State}, {"LibexecDir", c.LibexecDir},
	} {
		if !filepath.IsAbs(required.value) {
			return fmt.Errorf("%s: %q is not an absolute path", required.name, required.value)
		}
	}
	if c.StreamAddress == "" {
		c.StreamAddress = "127.0.0.1:0"
	}
	if _, _, err := net.SplitHostPort(c.StreamAddress); err != nil {
		return fmt.Errorf("StreamAddress: %w", err)
	}
	switch {
	case c.CNI != nil && c.CNIConfDir != "":
		return errors.New("CNI and CNIConfDir: two pod networks")
	case c.CNIConfDir != "" && !filepath.IsAbs(c.CNIBinDir):
		return fmt.Errorf("CNIBinDir: %q is not an absolute path", c.CNIBinDir)
	case c.CNI == nil:
		c.CNI = loopbackOnly{}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

// Runtime is a running containerd.
type Runtime struct {
	cfg     Config
	server  *server.Server
	service *service
	shim    *nodeshim.Shim
	reserve *reserve
	// shared is the host's image store; nil without one.
	shared *imagestore.Reader
	// capabilities are the ones that this process has: no container can have
	// more.
	capabilities []string

	listener net.Listener
	grpc     *grpc.Server
	serving  sync.WaitGroup
}

// Start runs containerd and returns when the CRI service answers: containers
// of an earlier process have been adopted by then. A process has one Runtime
// at a time.
func Start(ctx context.Context, cfg Config) (_ *Runtime, err error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start containerd: %w", err)
		}
	}()
	r := &Runtime{cfg: cfg}
	if cfg.ImageStore != "" {
		r.shared = imagestore.NewReader(cfg.ImageStore)
	}
	if r.capabilities, err = cap.Current(); err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	redirectLog(cfg.Log)
	if err := register(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	// Plugins live longer than the start.
	pluginCtx := context.WithValue(context.WithoutCancel(ctx), runtimeKey{}, r)
	if r.server, err = server.New(pluginCtx, r.serverConfig()); err != nil {
		return nil, fmt.Errorf("of %s: %w", cfg.Root, err)
	}
	if err := r.server.Start(pluginCtx); err != nil {
		return nil, err
	}
	if r.service == nil {
		return nil, errors.New("the CRI plugin did not load; the log says why")
	}
	r.server.Wait()
	return r, r.serve()
}

// prepare makes the directories and finds the programs.
func (r *Runtime) prepare() error {
	bin := filepath.Join(r.cfg.State, "bin")
	for _, dir := range []string{r.cfg.Root, bin} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	r.reserve = &reserve{dir: r.cfg.Root, log: r.cfg.Log}
	r.reserve.open()
	// containerd looks for a shim by this name, in PATH.
	link := filepath.Join(bin, "containerd-shim-runc-v2")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(r.libexec("skiff-shim"), link); err != nil {
		return err
	}
	path := filepath.SplitList(os.Getenv("PATH"))
	path = slices.DeleteFunc(path, func(dir string) bool { return dir == bin || dir == r.cfg.LibexecDir })
	path = append([]string{bin, r.cfg.LibexecDir}, path...)
	if err := os.Setenv("PATH", strings.Join(path, string(filepath.ListSeparator))); err != nil {
		return err
	}
	r.shim = nodeshim.New(nodeshim.Config{
		Binary:       r.libexec("skiff-shim"),
		Dir:          filepath.Join(r.cfg.State, "shim"),
		EventAddress: r.eventAddress(),
		Namespace:    namespace,
		Log:          r.cfg.Log,
	})
	return r.shim.Adopt()
}

// serve listens on the socket for crictl.
func (r *Runtime) serve() error {
	if r.cfg.Socket == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.cfg.Socket), 0o711); err != nil {
		return err
	}
	if err := os.Remove(r.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", r.cfg.Socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(r.cfg.Socket, 0o600); err != nil {
		return errors.Join(err, listener.Close())
	}
	r.listener = listener
	r.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize))
	runtimeapi.RegisterRuntimeServiceServer(r.grpc, r.service)
	runtimeapi.RegisterImageServiceServer(r.grpc, r.service)
	r.serving.Go(func() {
		if err := r.grpc.Serve(listener); err != nil {
			r.cfg.Log.Error("CRI socket failed", "socket", r.cfg.Socket, "error", err)
		}
	})
	return nil
}

// Close stops containerd. Containers go on running.
func (r *Runtime) Close() error {
	if r.grpc != nil {
		r.grpc.Stop()
	}
	r.serving.Wait()
	if r.service != nil {
		r.service.pulls.close()
	}
	if r.server != nil {
		r.server.Stop()
	}
	if r.shim != nil {
		return r.shim.Close()
	}
	return nil
}

// RuntimeService is the CRI's runtime half, for calls within the process.
func (r *Runtime) RuntimeService() internalapi.RuntimeService { return &runtimeClient{r.service} }

// ImageService is the CRI's image half, for calls within the process.
func (r *Runtime) ImageService() internalapi.ImageManagerService { return &imageClient{r.service} }

func (r *Runtime) libexec(name string) string { return filepath.Join(r.cfg.LibexecDir, name) }

// eventAddress is where shims send events.
func (r *Runtime) eventAddress() string { return filepath.Join(r.cfg.State, "events.sock") }
