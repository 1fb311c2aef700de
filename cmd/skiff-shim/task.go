package main

import (
	"context"
	"os"
	"path/filepath"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	runctask "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	runcC "github.com/containerd/go-runc"
	"github.com/containerd/plugin"
	"github.com/containerd/ttrpc"
)

func newTaskService(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	stop, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	inner, err := runctask.NewTaskService(ic.Context, publisher.(shim.Publisher), stop.(shutdown.Service))
	if err != nil {
		return nil, err
	}
	// The service has just set its own.
	runcC.Monitor = inProcess{runcC.Monitor, filepath.Join(filepath.Dir(os.Args[0]), "runc")}
	return &taskService{TTRPCTaskService: inner}, nil
}

// taskService is upstream's task service for all containers of a node.
type taskService struct {
	taskAPI.TTRPCTaskService
}

func (s *taskService) RegisterTTRPC(server *ttrpc.Server) error {
	taskAPI.RegisterTTRPCTaskService(server, s)
	return nil
}

// Shutdown does nothing: containerd calls it after every container, and
// upstream's would end the process with the last one.
func (s *taskService) Shutdown(context.Context, *taskAPI.ShutdownRequest) (*ptypes.Empty, error) {
	return &ptypes.Empty{}, nil
}

// Pids names the init process of a stopped container too. A containerd that
// starts takes a task without processes for a leak and deletes it before the
// CRI has read its exit code; so a container that ended while the node
// process was away keeps its true exit code.
func (s *taskService) Pids(ctx context.Context, r *taskAPI.PidsRequest) (*taskAPI.PidsResponse, error) {
	response, err := s.TTRPCTaskService.Pids(ctx, r)
	if err == nil && len(response.Processes) > 0 {
		return response, nil
	}
	state, stateErr := s.TTRPCTaskService.State(ctx, &taskAPI.StateRequest{ID: r.ID})
	if stateErr != nil || state.Status != task.Status_STOPPED || state.Pid == 0 {
		return response, err
	}
	return &taskAPI.PidsResponse{Processes: []*task.ProcessInfo{{Pid: state.Pid}}}, nil
}
