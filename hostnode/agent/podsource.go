package agent

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/config"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
	"k8s.io/kubernetes/pkg/kubelet/util"
)

// Upstream watches pods once its informer has seen the Node, and looks for
// that every second. Our question blocks until the informer has it, so that
// upstream's first look is its last.

// nodePoll is how often the informer is looked at while it is about to see a
// Node that exists: a list takes about as long.
const nodePoll = 2 * time.Millisecond

// podSource makes the kubelet's stream of pods: static pods from files, and
// the API server's.
func podSource(ctx context.Context, cfg *kubeletconfig.KubeletConfiguration, nodeName types.NodeName, client kubernetes.Interface,
	recorder record.EventRecorderLogger, tracker util.PodStartupLatencyTracker, nodeSeen func() bool) *config.PodConfig {
	logger := klog.FromContext(ctx)
	source := config.NewPodConfig(recorder, tracker)
	if cfg.StaticPodPath != "" {
		config.NewSourceFile(logger, cfg.StaticPodPath, nodeName, cfg.FileCheckFrequency.Duration,
			source.Channel(ctx, kubetypes.FileSource))
	}
	config.NewSourceApiserver(logger, client, nodeName, nodeSeen, source.Channel(ctx, kubetypes.ApiserverSource))
	return source
}

// kubeletHandle is the kubelet that upstream builds; it is stored by an
// option of ours while upstream is still building.
type kubeletHandle struct {
	atomic.Pointer[kubelet.Kubelet]
}

// requestRelist makes the kubelet look at one pod now.
func (h *kubeletHandle) requestRelist(uid types.UID) {
	if k := h.Load(); k != nil {
		k.RequestPodRelist(klog.Background(), uid)
	}
}

// nodeSeen blocks until the kubelet's informer has the Node.
func (h *kubeletHandle) nodeSeen(ctx context.Context, d *doors) func() bool {
	return func() bool {
		if pass(ctx, d.node) != nil {
			return false
		}
		for tick := time.NewTicker(nodePoll); ; {
			if k := h.Load(); k != nil {
				if node, err := k.GetNode(ctx); err == nil && node.UID != "" {
					tick.Stop()
					return true
				}
			}
			select {
			case <-ctx.Done():
				tick.Stop()
				return false
			case <-tick.C:
			}
		}
	}
}
