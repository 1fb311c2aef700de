package runtime

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
	"k8s.io/utils/exec"
)

// runtimeClient is the kubelet's view of the runtime service. It does what
// upstream's gRPC client (k8s.io/cri-client) does, without gRPC: the same
// timeouts, the same checks of responses, the same error values.
type runtimeClient struct {
	service *service
}

var _ internalapi.RuntimeService = (*runtimeClient)(nil)

func (c *runtimeClient) Version(ctx context.Context, apiVersion string) (*runtimeapi.VersionResponse, error) {
	return invoke(ctx, callTimeout, c.service.Version, &runtimeapi.VersionRequest{Version: apiVersion})
}

func (c *runtimeClient) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	response, err := invoke(ctx, 2*callTimeout, c.service.RunPodSandbox,
		&runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	return response.GetPodSandboxId(), err
}

func (c *runtimeClient) StopPodSandbox(ctx context.Context, id string) error {
	_, err := invoke(ctx, callTimeout, c.service.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return err
}

func (c *runtimeClient) RemovePodSandbox(ctx context.Context, id string) error {
	_, err := invoke(ctx, callTimeout, c.service.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

func (c *runtimeClient) PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	response, err := invoke(ctx, callTimeout, c.service.PodSandboxStatus,
		&runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: verbose})
	if err != nil {
		return nil, err
	}
	if s := response.GetStatus(); s != nil {
		switch {
		case s.GetId() == "":
			return nil, missing("PodSandboxStatus", "id")
		case s.GetMetadata().GetName() == "" || s.GetMetadata().GetNamespace() == "" || s.GetMetadata().GetUid() == "":
			return nil, missing("PodSandboxStatus", "metadata")
		case s.GetCreatedAt() == 0:
			return nil, missing("PodSandboxStatus", "createdAt")
		}
	}
	return response, nil
}

func (c *runtimeClient) ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	response, err := invoke(ctx, callTimeout, c.service.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: filter})
	return response.GetItems(), err
}

func (c *runtimeClient) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	response, err := invoke(ctx, callTimeout, c.service.CreateContainer,
		&runtimeapi.CreateContainerRequest{PodSandboxId: sandboxID, Config: config, SandboxConfig: sandbox})
	return response.GetContainerId(), err
}

func (c *runtimeClient) StartContainer(ctx context.Context, id string) error {
	_, err := invoke(ctx, callTimeout, c.service.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

func (c *runtimeClient) StopContainer(ctx context.Context, id string, timeout int64) error {
	// The grace period, and time for SIGKILL to work.
	_, err := invoke(ctx, callTimeout+time.Duration(timeout)*time.Second, c.service.StopContainer,
		&runtimeapi.StopContainerRequest{ContainerId: id, Timeout: timeout})
	return err
}

func (c *runtimeClient) RemoveContainer(ctx context.Context, id string) error {
	_, err := invoke(ctx, callTimeout, c.service.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return err
}

func (c *runtimeClient) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	response, err := invoke(ctx, callTimeout, c.service.ListContainers, &runtimeapi.ListContainersRequest{Filter: filter})
	return response.GetContainers(), err
}

func (c *runtimeClient) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	response, err := invoke(ctx, callTimeout, c.service.ContainerStatus,
		&runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
	if err != nil {
		return nil, err
	}
	if s := response.GetStatus(); s != nil {
		switch {
		case s.GetId() == "":
			return nil, missing("ContainerStatus", "id")
		case s.GetMetadata().GetName() == "":
			return nil, missing("ContainerStatus", "metadata")
		case s.GetCreatedAt() == 0:
			return nil, missing("ContainerStatus", "createdAt")
		case s.GetImage().GetImage() == "" || s.GetImageRef() == "":
			return nil, missing("ContainerStatus", "image")
		}
	}
	return response, nil
}

func (c *runtimeClient) UpdateContainerResources(ctx context.Context, id string, resources *runtimeapi.ContainerResources) error {
	_, err := invoke(ctx, callTimeout, c.service.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: resources.GetLinux(), Windows: resources.GetWindows(),
	})
	return err
}

func (c *runtimeClient) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	// No timeout of the command means none of the call.
	bound := time.Duration(0)
	if timeout > 0 {
		bound = callTimeout + timeout
	}
	response, err := invoke(ctx, bound, c.service.ExecSync,
		&runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: int64(timeout.Seconds())})
	if status.Code(err) == codes.DeadlineExceeded {
		err = fmt.Errorf("%w: %q timed out after %s", criclient.ErrCommandTimedOut, strings.Join(cmd, " "), timeout)
	}
	if err != nil {
		return nil, nil, err
	}
	if code := response.GetExitCode(); code != 0 {
		err = exec.CodeExitError{
			Err:  fmt.Errorf("command '%s' exited with %d: %s", strings.Join(cmd, " "), code, response.GetStderr()),
			Code: int(code),
		}
	}
	return response.GetStdout(), response.GetStderr(), err
}

func (c *runtimeClient) Exec(ctx context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	response, err := invoke(ctx, callTimeout, c.service.Exec, r)
	if err == nil && response.GetUrl() == "" {
		return nil, missing("Exec", "url")
	}
	return response, err
}

func (c *runtimeClient) Attach(ctx context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	response, err := invoke(ctx, callTimeout, c.service.Attach, r)
	if err == nil && response.GetUrl() == "" {
		return nil, missing("Attach", "url")
	}
	return response, err
}

func (c *runtimeClient) PortForward(ctx context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	response, err := invoke(ctx, callTimeout, c.service.PortForward, r)
	if err == nil && response.GetUrl() == "" {
		return nil, missing("PortForward", "url")
	}
	return response, err
}

func (c *runtimeClient) ReopenContainerLog(ctx context.Context, id string) error {
	_, err := invoke(ctx, callTimeout, c.service.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	return err
}

func (c *runtimeClient) CheckpointContainer(ctx context.Context, r *runtimeapi.CheckpointContainerRequest) error {
	timeout := max(callTimeout, time.Duration(r.GetTimeout())*time.Second)
	_, err := invoke(ctx, timeout, c.service.CheckpointContainer, r)
	return err
}

func (c *runtimeClient) CheckpointPod(ctx context.Context, r *runtimeapi.CheckpointPodRequest) error {
	_, err := invoke(ctx, unlessBounded(ctx), c.service.CheckpointPod, r)
	return err
}

func (c *runtimeClient) RestorePod(ctx context.Context, r *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return invoke(ctx, unlessBounded(ctx), c.service.RestorePod, r)
}

// unlessBounded is the timeout of calls whose callers may allow more.
func unlessBounded(ctx context.Context) time.Duration {
	if _, ok := ctx.Deadline(); ok {
		return 0
	}
	return callTimeout
}

func (c *runtimeClient) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return invoke(ctx, callTimeout, c.service.UpdatePodSandboxResources, r)
}

func (c *runtimeClient) UpdateRuntimeConfig(ctx context.Context, config *runtimeapi.RuntimeConfig) error {
	_, err := invoke(ctx, callTimeout, c.service.UpdateRuntimeConfig, &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: config})
	return err
}

func (c *runtimeClient) Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	response, err := invoke(ctx, callTimeout, c.service.Status, &runtimeapi.StatusRequest{Verbose: verbose})
	if err == nil && len(response.GetStatus().GetConditions()) < 2 {
		return nil, missing("Status", "condition RuntimeReady or NetworkReady")
	}
	return response, err
}

func (c *runtimeClient) RuntimeConfig(ctx context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return invoke(ctx, callTimeout, c.service.RuntimeConfig, &runtimeapi.RuntimeConfigRequest{})
}

func (c *runtimeClient) ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	response, err := invoke(ctx, callTimeout, c.service.ContainerStats, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	return response.GetStats(), err
}

func (c *runtimeClient) ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	response, err := invoke(ctx, callTimeout, c.service.ListContainerStats, &runtimeapi.ListContainerStatsRequest{Filter: filter})
	return response.GetStats(), err
}

func (c *runtimeClient) PodSandboxStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	response, err := invoke(ctx, callTimeout, c.service.PodSandboxStats, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id})
	return response.GetStats(), err
}

func (c *runtimeClient) ListPodSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	response, err := invoke(ctx, callTimeout, c.service.ListPodSandboxStats, &runtimeapi.ListPodSandboxStatsRequest{Filter: filter})
	return response.GetStats(), err
}

func (c *runtimeClient) ListMetricDescriptors(ctx context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	response, err := invoke(ctx, callTimeout, c.service.ListMetricDescriptors, &runtimeapi.ListMetricDescriptorsRequest{})
	return response.GetDescriptors(), err
}

func (c *runtimeClient) ListPodSandboxMetrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	response, err := invoke(ctx, callTimeout, c.service.ListPodSandboxMetrics, &runtimeapi.ListPodSandboxMetricsRequest{})
	return response.GetPodMetrics(), err
}

// GetContainerEvents sends events until ctx ends. It sends from this
// goroutine only: the caller may close the channel when it returns.
func (c *runtimeClient) GetContainerEvents(ctx context.Context, to chan *runtimeapi.ContainerEventResponse, established func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := &eventStream{ctx: ctx, events: make(chan *runtimeapi.ContainerEventResponse)}
	ended := make(chan error, 1)
	// Upstream's subscription ends with the first event that is not taken, not
	// with the context: it is left behind until then.
	go func() { ended <- c.service.GetContainerEvents(&runtimeapi.GetEventsRequest{}, stream) }()
	if established != nil {
		established(nil)
	}
	for {
		select {
		case event := <-stream.events:
			select {
			case to <- event:
			case <-ctx.Done():
			}
		case err := <-ended:
			if err == nil {
				err = io.EOF
			}
			return err
		case <-ctx.Done():
			return statusError(ctx.Err())
		}
	}
}

// Close has no connection to close.
func (c *runtimeClient) Close(context.Context) error { return nil }

// eventStream is the receiving end of a server stream.
type eventStream struct {
	grpc.ServerStream
	ctx    context.Context
	events chan *runtimeapi.ContainerEventResponse
}

func (s *eventStream) Context() context.Context { return s.ctx }

func (s *eventStream) Send(event *runtimeapi.ContainerEventResponse) error {
	select {
	case s.events <- proto.CloneOf(event):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
