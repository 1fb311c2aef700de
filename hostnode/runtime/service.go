package runtime

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// service is upstream's CRI service as callers of the node see it: in
// containerd's namespace, with gRPC's errors, and with what this host cannot
// do taken out of the requests. The in-process clients and the socket for
// crictl are both served by it.
type service struct {
	// cri has the calls; all of them are wrapped here or in service_calls.go.
	cri
	runtime *Runtime
	images  *adopter
	pulls   *pulls
	// sandboxes is containerd's own record of sandboxes.
	sandboxes sandbox.Store
	gate      gate
}

// call makes one call of upstream's service.
func call[Request, Response any](ctx context.Context, method func(context.Context, Request) (Response, error), request Request) (Response, error) {
	response, err := method(namespaces.WithNamespace(ctx, namespace), request)
	return response, errgrpc.ToGRPC(err)
}

// RunPodSandbox puts pods that name no cgroup into the node's.
func (s *service) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	leave, err := s.gate.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	s.defaultCgroup(r.GetConfig())
	return call(ctx, s.cri.RunPodSandbox, r)
}

// ListPodSandbox knows when adopted sandboxes were made: upstream forgets that
// at a restart, and the kubelet sorts by it.
func (s *service) ListPodSandbox(ctx context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	response, err := call(ctx, s.cri.ListPodSandbox, r)
	if err != nil {
		return nil, err
	}
	return response, s.dateSandboxes(ctx, response.GetItems())
}

func (s *service) dateSandboxes(ctx context.Context, items []*runtimeapi.PodSandbox) error {
	for _, item := range items {
		if item.CreatedAt > 0 {
			continue
		}
		record, err := s.sandboxes.Get(namespaces.WithNamespace(ctx, namespace), item.Id)
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return errgrpc.ToGRPC(err)
		}
		item.CreatedAt = record.CreatedAt.UnixNano()
	}
	return nil
}

// CreateContainer leaves out capabilities that this host does not give: the
// container would not start with them, and runs well without in all cases
// that are not about that very capability.
func (s *service) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	leave, err := s.gate.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	s.defaultCgroup(r.GetSandboxConfig())
	for _, ref := range containerImages(r.GetConfig()) {
		if _, err := s.images.adopt(ctx, ref); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
	}
	if capabilities := r.GetConfig().GetLinux().GetSecurityContext().GetCapabilities(); capabilities != nil {
		capabilities.AddCapabilities = slices.DeleteFunc(capabilities.AddCapabilities, func(name string) bool {
			missing := !s.hasCapability(name)
			if missing {
				s.runtime.cfg.Log.Warn("capability left out: this host does not give it",
					"capability", name, "container", r.GetConfig().GetMetadata().GetName())
			}
			return missing
		})
	}
	return call(ctx, s.cri.CreateContainer, r)
}

// hasCapability says whether name, as in a Pod ("SYS_ADMIN", "ALL"), can be
// given. Unknown names are left for runc to refuse.
func (s *service) hasCapability(name string) bool {
	full := strings.ToUpper(name)
	if full == "ALL" {
		return true
	}
	if !strings.HasPrefix(full, "CAP_") {
		full = "CAP_" + full
	}
	return !slices.Contains(cap.Known(), full) || slices.Contains(s.runtime.capabilities, full)
}

func (s *service) defaultCgroup(config *runtimeapi.PodSandboxConfig) {
	if s.runtime.cfg.CgroupParent == "" || config == nil || config.GetLinux().GetCgroupParent() != "" {
		return
	}
	if config.Linux == nil {
		config.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	config.Linux.CgroupParent = s.runtime.cfg.CgroupParent
}

// containerImages are the images that a container is made of: its own, and
// those that it mounts as volumes.
func containerImages(config *runtimeapi.ContainerConfig) []string {
	images := []string{config.GetImage().GetImage()}
	for _, mount := range config.GetMounts() {
		if image := mount.GetImage().GetImage(); image != "" {
			images = append(images, image)
		}
	}
	return images
}
