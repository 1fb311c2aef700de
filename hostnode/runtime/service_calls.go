package runtime

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Calls that go to upstream's service as they are; none starts anything while
// the node stops, and those that end something do so on a full disk too.

func (s *service) Version(ctx context.Context, r *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return call(ctx, s.cri.Version, r)
}

func (s *service) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return spend(ctx, s.runtime.reserve, s.cri.StopPodSandbox, r)
}

func (s *service) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return spend(ctx, s.runtime.reserve, s.cri.RemovePodSandbox, r)
}

func (s *service) PodSandboxStatus(ctx context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return call(ctx, s.cri.PodSandboxStatus, r)
}

func (s *service) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	leave, err := s.gate.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	return call(ctx, s.cri.StartContainer, r)
}

func (s *service) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	defer s.runtime.reserve.attend(time.Duration(r.GetTimeout()) * time.Second)()
	return call(ctx, s.cri.StopContainer, r)
}

func (s *service) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	response, err := spend(ctx, s.runtime.reserve, s.cri.RemoveContainer, r)
	if err == nil {
		s.freeNow(ctx)
	}
	return response, err
}

func (s *service) ListContainers(ctx context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return call(ctx, s.cri.ListContainers, r)
}

func (s *service) ContainerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return call(ctx, s.cri.ContainerStatus, r)
}

func (s *service) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return call(ctx, s.cri.UpdateContainerResources, r)
}

func (s *service) ReopenContainerLog(ctx context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return call(ctx, s.cri.ReopenContainerLog, r)
}

func (s *service) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	return call(ctx, s.cri.ExecSync, r)
}

func (s *service) Exec(ctx context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return call(ctx, s.cri.Exec, r)
}

func (s *service) Attach(ctx context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return call(ctx, s.cri.Attach, r)
}

func (s *service) PortForward(ctx context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return call(ctx, s.cri.PortForward, r)
}

func (s *service) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	return call(ctx, s.cri.ContainerStats, r)
}

func (s *service) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return call(ctx, s.cri.ListContainerStats, r)
}

func (s *service) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	return call(ctx, s.cri.PodSandboxStats, r)
}

func (s *service) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return call(ctx, s.cri.ListPodSandboxStats, r)
}

func (s *service) UpdateRuntimeConfig(ctx context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return call(ctx, s.cri.UpdateRuntimeConfig, r)
}

func (s *service) Status(ctx context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return call(ctx, s.cri.Status, r)
}

func (s *service) CheckpointContainer(ctx context.Context, r *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return call(ctx, s.cri.CheckpointContainer, r)
}

func (s *service) CheckpointPod(ctx context.Context, r *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return call(ctx, s.cri.CheckpointPod, r)
}

func (s *service) RestorePod(ctx context.Context, r *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return call(ctx, s.cri.RestorePod, r)
}

func (s *service) ListMetricDescriptors(ctx context.Context, r *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return call(ctx, s.cri.ListMetricDescriptors, r)
}

func (s *service) ListPodSandboxMetrics(ctx context.Context, r *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	return call(ctx, s.cri.ListPodSandboxMetrics, r)
}

func (s *service) RuntimeConfig(ctx context.Context, r *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return call(ctx, s.cri.RuntimeConfig, r)
}

func (s *service) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return call(ctx, s.cri.UpdatePodSandboxResources, r)
}

func (s *service) ImageFsInfo(ctx context.Context, r *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return call(ctx, s.cri.ImageFsInfo, r)
}

func (s *service) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return errgrpc.ToGRPC(s.cri.StreamPodSandboxes(r, datedStream{namespacedStream[runtimeapi.StreamPodSandboxesResponse]{to}, s}))
}

func (s *service) StreamContainers(r *runtimeapi.StreamContainersRequest, to grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	return errgrpc.ToGRPC(s.cri.StreamContainers(r, namespacedStream[runtimeapi.StreamContainersResponse]{to}))
}

func (s *service) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	return errgrpc.ToGRPC(s.cri.StreamContainerStats(r, namespacedStream[runtimeapi.StreamContainerStatsResponse]{to}))
}

func (s *service) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	return errgrpc.ToGRPC(s.cri.StreamPodSandboxStats(r, namespacedStream[runtimeapi.StreamPodSandboxStatsResponse]{to}))
}

func (s *service) GetContainerEvents(r *runtimeapi.GetEventsRequest, to grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	return errgrpc.ToGRPC(s.cri.GetContainerEvents(r, namespacedStream[runtimeapi.ContainerEventResponse]{to}))
}

func (s *service) StreamPodSandboxMetrics(r *runtimeapi.StreamPodSandboxMetricsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	return errgrpc.ToGRPC(s.cri.StreamPodSandboxMetrics(r, namespacedStream[runtimeapi.StreamPodSandboxMetricsResponse]{to}))
}

// namespacedStream is a stream in containerd's namespace.
type namespacedStream[Response any] struct {
	grpc.ServerStreamingServer[Response]
}

func (s namespacedStream[Response]) Context() context.Context {
	return namespaces.WithNamespace(s.ServerStreamingServer.Context(), namespace)
}

// datedStream is a stream of sandboxes with their dates, see ListPodSandbox.
type datedStream struct {
	namespacedStream[runtimeapi.StreamPodSandboxesResponse]
	service *service
}

func (s datedStream) Send(response *runtimeapi.StreamPodSandboxesResponse) error {
	if err := s.service.dateSandboxes(s.Context(), response.GetPodSandboxes()); err != nil {
		return err
	}
	return s.namespacedStream.Send(response)
}
