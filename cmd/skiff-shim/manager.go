package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcmanager "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/shim"
)

const runtimeName = "io.containerd.runc.v2"

// manager is upstream's shim manager without a start: the node process starts
// the one shim itself and hands it its socket.
type manager struct {
	shim.Shim
}

func newManager() shim.Shim {
	return manager{runcmanager.NewShimManager(runtimeName)}
}

func (manager) Start(context.Context, *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	return nil, errors.New("start a shim: skiff-shim is started by the node, one for all containers")
}

// Stop cleans up after one container whose connection to the shim is gone.
// After every ordinary deletion containerd calls it too, late and in vain:
// then runc knows nothing of the container any more and is not run.
func (m manager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return shim.StopStatus{}, err
	}
	bundle := filepath.Join(filepath.Dir(cwd), id)
	options, err := runc.ReadOptions(bundle)
	if err != nil || options == nil || options.Root == "" {
		return m.Shim.Stop(ctx, id)
	}
	// runc keeps a container's state in <root>/<namespace>/<id>.
	left, err := filepath.Glob(filepath.Join(options.Root, "*", id))
	if err != nil || len(left) > 0 {
		return m.Shim.Stop(ctx, id)
	}
	// A shim that died between mount and create leaves a root file system.
	if err := mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), 0); err != nil {
		return shim.StopStatus{}, err
	}
	status := shim.StopStatus{ExitedAt: time.Now(), ExitStatus: 255}
	if exit, err := runc.ReadExitStatus(bundle); err == nil {
		status = shim.StopStatus{ExitedAt: exit.Timestamp, ExitStatus: exit.Status, Pid: exit.Pid}
	}
	return status, nil
}
