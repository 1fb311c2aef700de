package agent

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
)

// Upstream lists all containers once a second. A pod's worker waits for a
// list that is newer than its own last step, so every step of an exit or a
// deletion costs up to a second; and an exit is noticed up to a second late.
// Since 1.37 upstream can list one pod on demand, and does so after it started
// containers. We demand it where a worker starts to wait, and when the
// runtime tells of an exit.

// eagerStatus makes k's pod workers demand what they wait for. Upstream
// changed when the fields are gone: then the steps take upstream's time.
func eagerStatus(k *kubelet.Kubelet) error {
	workers, err := unexported[kubelet.PodWorkers](k, "podWorkers")
	if err != nil {
		return err
	}
	cache, err := unexported[kubecontainer.ROCache](*workers, "podCache")
	if err != nil {
		return err
	}
	*cache = demandingCache{ROCache: *cache, demand: func(uid types.UID) { k.RequestPodRelist(klog.Background(), uid) }}
	return nil
}

// demandingCache is the pods' statuses as their workers see them.
type demandingCache struct {
	kubecontainer.ROCache
	demand func(types.UID)
}

// GetNewerThan waits for a status that was observed after since.
func (c demandingCache) GetNewerThan(uid types.UID, since time.Time) (*kubecontainer.PodStatus, error) {
	// A worker that has done nothing yet takes any status, and of a pod
	// without a sandbox there is nothing to list.
	status, err := c.Get(uid)
	if !since.IsZero() && (err != nil || len(status.SandboxStatuses)+len(status.ContainerStatuses) > 0) {
		c.demand(uid)
	}
	return c.ROCache.GetNewerThan(uid, since)
}

// eventRetry is the pause before a broken stream of events is opened again.
const eventRetry = time.Second

// watchExits demands a list of every pod of which a container ended, until
// ctx ends.
func watchExits(ctx context.Context, runtime internalapi.RuntimeService, demand func(types.UID)) {
	events := make(chan *runtimeapi.ContainerEventResponse, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := runtime.GetContainerEvents(ctx, events, nil)
			if ctx.Err() != nil {
				return
			}
			slog.Warn("stream of container events ended; exits are noticed within a second", "reason", err)
			select {
			case <-ctx.Done():
			case <-time.After(eventRetry):
			}
		}
	}()
	defer func() { <-done }()
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-events:
			uid := event.GetPodSandboxStatus().GetMetadata().GetUid()
			if uid != "" && event.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
				demand(types.UID(uid))
			}
		}
	}
}
