package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	critesting "k8s.io/cri-api/pkg/apis/testing"
)

// eventful is upstream's stand-in for a CRI, with events.
type eventful struct {
	*critesting.FakeRuntimeService
	events  []*runtimeapi.ContainerEventResponse
	streams int
}

func (e *eventful) GetContainerEvents(ctx context.Context, to chan *runtimeapi.ContainerEventResponse, _ func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	if e.streams++; e.streams == 1 {
		return errors.New("broken")
	}
	for _, event := range e.events {
		to <- event
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestAnExitIsLookedAtOnce(t *testing.T) {
	event := func(kind runtimeapi.ContainerEventType, uid string) *runtimeapi.ContainerEventResponse {
		return &runtimeapi.ContainerEventResponse{
			ContainerEventType: kind,
			PodSandboxStatus:   &runtimeapi.PodSandboxStatus{Metadata: &runtimeapi.PodSandboxMetadata{Uid: uid}},
		}
	}
	synctest.Test(t, func(t *testing.T) {
		runtime := &eventful{FakeRuntimeService: critesting.NewFakeRuntimeService(), events: []*runtimeapi.ContainerEventResponse{
			event(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, "a"),
			event(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, "a"),
			event(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, "a"),
			{ContainerEventType: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT}, // its sandbox is gone
			event(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, "b"),
		}}
		ctx, cancel := context.WithCancel(t.Context())
		var demanded []types.UID
		done := make(chan struct{})
		go func() {
			defer close(done)
			watchExits(ctx, runtime, func(uid types.UID) { demanded = append(demanded, uid) })
		}()
		time.Sleep(2 * eventRetry)
		cancel()
		<-done
		if len(demanded) != 2 || demanded[0] != "a" || demanded[1] != "b" {
			t.Errorf("demanded %v, want [a b]", demanded)
		}
	})
}
