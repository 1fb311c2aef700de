package agent

import (
	"context"
	"fmt"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/kubelet/prober"
)

// Upstream delays the first run of every probe by a random part of its
// period, 10 s by default, while the kubelet is younger than that period: a
// kubelet that restarts on a full node must not run all probes at once. On a
// node without containers there is nothing to spread, and the first pods would
// be ready seconds late: there the kubelet's age is told as if it were old.
//
// Upstream changed when the fields are gone: then those pods are late.

// promptProbes makes probes start at once when the node has no containers.
func promptProbes(ctx context.Context, k *kubelet.Kubelet, runtime internalapi.RuntimeService) error {
	containers, err := runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	if len(containers) > 0 {
		return nil
	}
	probes, err := unexported[prober.Manager](k, "probeManager")
	if err != nil {
		return err
	}
	start, err := unexported[time.Time](*probes, "start")
	if err != nil {
		return err
	}
	*start = start.Add(-24 * time.Hour)
	return nil
}
