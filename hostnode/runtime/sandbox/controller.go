package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types"
	core "github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/containerd/typeurl/v2"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/pidfd"
)

// shimVersion tells containerd that containers join the shim at the given
// address without running a shim binary.
const shimVersion = 3

// Config is what a controller needs.
type Config struct {
	// PauseBinary is the path of skiff-pause.
	PauseBinary string
	// Root holds a directory per sandbox with its files, and outlives a
	// reboot; State holds a directory per sandbox on tmpfs.
	Root, State string
	// CRIRoot and CRIState are the directories in which CRI looks for a
	// sandbox's files and its /dev/shm.
	CRIRoot, CRIState string
	// Shim starts the node's shim unless it runs, and returns its address.
	Shim func() (address string, err error)
	Log  *slog.Logger
}

// Controller implements containerd's sandbox.Controller.
type Controller struct {
	cfg Config

	// mu guards sandboxes.
	mu        sync.Mutex
	sandboxes map[string]*sandbox

	// stop ends the watches; watches waits for them.
	stop    context.CancelFunc
	ctx     context.Context
	watches sync.WaitGroup
}

var _ core.Controller = (*Controller)(nil)

// sandbox is one pod's namespaces.
//
//	created → (Start) running → (exit of pause) ended → (Shutdown) gone
type sandbox struct {
	id        string
	config    *runtimeapi.PodSandboxConfig
	netns     string
	createdAt time.Time

	// The fields below are written once, before or under Controller.mu.
	process *pidfd.Process
	exit    core.ExitStatus
	// ended is closed when the pause process has ended; exit is valid then.
	ended chan struct{}
}

// New returns a controller that has adopted the sandboxes of an earlier node
// process. Close releases it.
func New(cfg Config) (*Controller, error) {
	for _, dir := range []string{cfg.Root, cfg.State} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("sandbox controller: %w", err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Controller{cfg: cfg, sandboxes: map[string]*sandbox{}, ctx: ctx, stop: stop}
	if err := c.adopt(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close lets go of the sandboxes, which go on running.
func (c *Controller) Close() error {
	c.stop()
	c.watches.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, sb := range c.sandboxes {
		if sb.process != nil {
			errs = append(errs, sb.process.Close())
		}
	}
	return errors.Join(errs...)
}

func (c *Controller) get(id string) (*sandbox, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sb, ok := c.sandboxes[id]; ok {
		return sb, nil
	}
	return nil, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
}

// Create takes in the pod's configuration; nothing exists yet.
func (c *Controller) Create(_ context.Context, info core.Sandbox, opts ...core.CreateOpt) error {
	var create core.CreateOptions
	for _, opt := range opts {
		if err := opt(&create); err != nil {
			return fmt.Errorf("create sandbox %s: %w", info.ID, err)
		}
	}
	config := &runtimeapi.PodSandboxConfig{}
	if err := typeurl.UnmarshalTo(create.Options, config); err != nil {
		return fmt.Errorf("create sandbox %s: read pod configuration: %w", info.ID, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.sandboxes[info.ID]; ok {
		return fmt.Errorf("create sandbox %s: %w", info.ID, errdefs.ErrAlreadyExists)
	}
	c.sandboxes[info.ID] = &sandbox{
		id: info.ID, config: config, netns: create.NetNSPath,
		createdAt: time.Now(), ended: make(chan struct{}),
	}
	return nil
}

// Start makes the sandbox's files and namespaces.
func (c *Controller) Start(ctx context.Context, id string) (_ core.ControllerInstance, err error) {
	sb, err := c.get(id)
	if err != nil {
		return core.ControllerInstance{}, err
	}
	// CRI forgets a sandbox that did not start, without a Shutdown.
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Shutdown(context.WithoutCancel(ctx), id))
		}
	}()
	address, err := c.cfg.Shim()
	if err != nil {
		return core.ControllerInstance{}, fmt.Errorf("start sandbox %s: %w", id, err)
	}
	if err := c.makeFiles(sb); err != nil {
		return core.ControllerInstance{}, fmt.Errorf("start sandbox %s: %w", id, err)
	}
	process, err := startPause(c.cfg.PauseBinary, sb, func(p *pidfd.Process) error { return c.record(sb, p) })
	if err != nil {
		return core.ControllerInstance{}, fmt.Errorf("start sandbox %s: %w", id, err)
	}
	c.mu.Lock()
	sb.process = process
	c.mu.Unlock()
	c.watch(sb)
	return core.ControllerInstance{
		SandboxID: id,
		Pid:       uint32(process.PID),
		CreatedAt: sb.createdAt,
		Address:   address,
		Version:   shimVersion,
	}, nil
}

// watch notices the end of the pause process.
func (c *Controller) watch(sb *sandbox) {
	c.watches.Go(func() {
		status, err := sb.process.Wait(c.ctx)
		if err != nil {
			return // Close
		}
		c.mu.Lock()
		sb.exit = core.ExitStatus{ExitStatus: uint32(status.Code), ExitedAt: status.At}
		c.mu.Unlock()
		close(sb.ended)
	})
}

// Stop ends the pause process and unmounts what Start mounted.
func (c *Controller) Stop(ctx context.Context, id string, _ ...core.StopOpt) error {
	sb, err := c.get(id)
	if err != nil {
		return err
	}
	if sb.process != nil {
		// Nothing in it has anything to save: no grace period.
		if err := sb.process.Kill(unix.SIGKILL); err != nil {
			return fmt.Errorf("stop sandbox %s: %w", id, err)
		}
		select {
		case <-sb.ended:
		case <-ctx.Done():
			return fmt.Errorf("stop sandbox %s: %w", id, ctx.Err())
		}
	}
	if err := c.unmountShm(id); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	return nil
}

// Shutdown removes all traces of a sandbox, known or not.
func (c *Controller) Shutdown(ctx context.Context, id string) error {
	sb, err := c.get(id)
	if err == nil {
		if err := c.Stop(ctx, id); err != nil {
			return err
		}
	}
	// The files come last: they say where the cgroup is, should we die now.
	if sb != nil {
		if err := removeUnifiedCgroup(sb.config.GetLinux().GetCgroupParent()); err != nil {
			return fmt.Errorf("remove sandbox %s: %w", id, err)
		}
	}
	if err := c.removeFiles(id); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	if sb == nil {
		return nil
	}
	c.mu.Lock()
	delete(c.sandboxes, id)
	c.mu.Unlock()
	if sb.process != nil {
		return sb.process.Close()
	}
	return nil
}

// Wait blocks until the sandbox has ended. Close does not end it: CRI would
// take that for the sandbox's end, and a kubelet that still runs would mend it.
func (c *Controller) Wait(ctx context.Context, id string) (core.ExitStatus, error) {
	sb, err := c.get(id)
	if err != nil {
		return core.ExitStatus{}, err
	}
	select {
	case <-sb.ended:
		c.mu.Lock()
		defer c.mu.Unlock()
		return sb.exit, nil
	case <-ctx.Done():
		return core.ExitStatus{}, ctx.Err()
	}
}

// Status tells whether the sandbox runs, in CRI's words.
func (c *Controller) Status(_ context.Context, id string, _ bool) (core.ControllerStatus, error) {
	sb, err := c.get(id)
	if err != nil {
		return core.ControllerStatus{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	status := core.ControllerStatus{
		SandboxID: id,
		State:     runtimeapi.PodSandboxState_SANDBOX_NOTREADY.String(),
		CreatedAt: sb.createdAt,
	}
	if sb.process == nil {
		return status, nil
	}
	select {
	case <-sb.ended:
		status.ExitedAt = sb.exit.ExitedAt
		return status, nil
	default:
	}
	// Not asked before there is a sandbox that runs: asking starts the shim.
	address, err := c.cfg.Shim()
	if err != nil {
		return core.ControllerStatus{}, fmt.Errorf("sandbox %s: %w", id, err)
	}
	status.State = runtimeapi.PodSandboxState_SANDBOX_READY.String()
	status.Pid = uint32(sb.process.PID)
	status.Address = address
	status.Version = shimVersion
	return status, nil
}

// Platform is the host's: containers are processes of the host's kernel.
func (c *Controller) Platform(context.Context, string) (imagespec.Platform, error) {
	return platforms.DefaultSpec(), nil
}

// Update has nothing to do: what may change of a sandbox while it runs is its
// resources, and those are the kubelet's pod cgroup.
func (c *Controller) Update(context.Context, string, core.Sandbox, ...string) error { return nil }

// Metrics reads the pod's cgroup.
func (c *Controller) Metrics(_ context.Context, id string) (*types.Metric, error) {
	sb, err := c.get(id)
	if err != nil {
		return nil, err
	}
	return podMetrics(id, sb.config.GetLinux().GetCgroupParent())
}

// dir is where a sandbox's files are; it outlives a reboot.
func (c *Controller) dir(id string) string      { return filepath.Join(c.cfg.Root, id) }
func (c *Controller) stateDir(id string) string { return filepath.Join(c.cfg.State, id) }
func (c *Controller) shmDir(id string) string   { return filepath.Join(c.stateDir(id), "shm") }
