package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet writes these annotations on every container, for itself after a
// restart; a test holds that it still does.
const (
	graceAnnotation   = "io.kubernetes.pod.terminationGracePeriod"
	preStopAnnotation = "io.kubernetes.container.preStopHandler"
	portsAnnotation   = "io.kubernetes.container.ports"
)

// ShutdownBound is the longest grace of a Pod when its node stops.
const ShutdownBound = 30 * time.Second

// killBound is how long the kernel may take to end what did not end itself.
const killBound = 5 * time.Second

// gate is passed by whatever starts something, until the node stops.
type gate struct {
	mu     sync.RWMutex // held for reading by who starts something; guards closed
	closed bool
}

func (g *gate) enter() (leave func(), err error) {
	g.mu.RLock()
	if g.closed {
		g.mu.RUnlock()
		return nil, status.Error(codes.Unavailable, "the node is stopping")
	}
	return g.mu.RUnlock, nil
}

// close returns when nobody starts anything, and nobody will.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// Shutdown ends all containers as the kubelet ends those of a deleted Pod:
// preStop hooks, the stop signal, and after the grace period, ShutdownBound
// at most, SIGKILL. Nothing starts any more. The Pods stay what they are; the
// next boot finds them dead and starts them again.
func (r *Runtime) Shutdown(ctx context.Context) error {
	r.service.gate.close()
	ctx, cancel := context.WithTimeout(ctx, ShutdownBound+killBound)
	defer cancel()
	client := r.RuntimeService()
	running, err := client.ListContainers(ctx, &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	})
	if err != nil {
		return fmt.Errorf("stop containers: %w", err)
	}
	errs := make([]error, len(running))
	var stops sync.WaitGroup
	for i, c := range running {
		stops.Go(func() { errs[i] = r.end(ctx, c) })
	}
	stops.Wait()
	return errors.Join(errs...)
}

// end stops one container; its preStop hook counts against the grace.
func (r *Runtime) end(ctx context.Context, c *runtimeapi.Container) error {
	began := time.Now()
	client := r.RuntimeService()
	grace, preStop := endOf(c.Annotations)
	var hookErr error
	if preStop != nil && grace > 0 {
		hookErr = r.preStop(ctx, c, preStop, grace)
	}
	// As the kubelet: at least two seconds after a hook that took all.
	left := grace - time.Since(began).Truncate(time.Second)
	if grace > 0 {
		left = max(left, 2*time.Second)
	}
	err := client.StopContainer(ctx, c.Id, int64(left.Seconds()))
	if err = errors.Join(hookErr, err); err != nil {
		return fmt.Errorf("stop container %s of pod %s: %w", c.GetMetadata().GetName(), c.Labels["io.kubernetes.pod.name"], err)
	}
	return nil
}

// endOf reads how a container wants to end. One that nobody asked about gets
// the grace of a Pod that says nothing.
func endOf(annotations map[string]string) (time.Duration, *corev1.LifecycleHandler) {
	grace := ShutdownBound
	if seconds, err := strconv.ParseInt(annotations[graceAnnotation], 10, 64); err == nil && seconds < int64(ShutdownBound.Seconds()) {
		grace = time.Duration(max(seconds, 0)) * time.Second
	}
	handler := &corev1.LifecycleHandler{}
	if text := annotations[preStopAnnotation]; text == "" || json.Unmarshal([]byte(text), handler) != nil {
		return grace, nil
	}
	return grace, handler
}
