package agent

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet/cadvisor"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	"k8s.io/kubernetes/pkg/kubelet/stats/pidlimit"
	"k8s.io/mount-utils"
)

// containerManager is upstream's, over cgroupfs below the machine's own root,
// with podTasks for processes and threads of all Pods (0: as many as the host's).
func containerManager(ctx context.Context, s *options.KubeletServer, podTasks int, mounter mount.Interface, machine cadvisor.Interface,
	recorder record.EventRecorder, client kubernetes.Interface) (cm.ContainerManager, error) {
	thresholds, err := eviction.ParseThresholdConfig(nil, s.EvictionHard, nil, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("parse eviction thresholds: %w", err)
	}
	qosReserved, err := cm.ParseQOSReserved(s.QOSReserved)
	if err != nil {
		return nil, fmt.Errorf("parse reserved classes: %w", err)
	}
	manager, err := cm.NewContainerManager(ctx, mounter, machine, cm.NodeConfig{
		NodeName:              types.NodeName(s.HostnameOverride),
		RuntimeCgroupsName:    s.RuntimeCgroups,
		SystemCgroupsName:     s.SystemCgroups,
		KubeletCgroupsName:    s.KubeletCgroups,
		KubeletOOMScoreAdj:    s.OOMScoreAdj,
		CgroupsPerQOS:         s.CgroupsPerQOS,
		CgroupRoot:            s.CgroupRoot,
		CgroupDriver:          s.CgroupDriver,
		KubeletRootDir:        s.RootDirectory,
		ProtectKernelDefaults: s.ProtectKernelDefaults,
		NodeAllocatableConfig: cm.NodeAllocatableConfig{
			EnforceNodeAllocatable: sets.New(s.EnforceNodeAllocatable...),
			HardEvictionThresholds: thresholds,
		},
		QOSReserved:                  *qosReserved,
		CPUManagerPolicy:             s.CPUManagerPolicy,
		CPUManagerPolicyOptions:      s.CPUManagerPolicyOptions,
		CPUManagerReconcilePeriod:    s.CPUManagerReconcilePeriod.Duration,
		MemoryManagerPolicy:          s.MemoryManagerPolicy,
		MemoryManagerReservedMemory:  s.ReservedMemory,
		MemoryReservationPolicy:      s.MemoryReservationPolicy,
		MemoryThrottlingFactor:       s.MemoryThrottlingFactor,
		PodPidsLimit:                 s.PodPidsLimit,
		EnforceCPULimits:             s.CPUCFSQuota,
		CPUCFSQuotaPeriod:            s.CPUCFSQuotaPeriod.Duration,
		TopologyManagerPolicy:        s.TopologyManagerPolicy,
		TopologyManagerScope:         s.TopologyManagerScope,
		TopologyManagerPolicyOptions: s.TopologyManagerPolicyOptions,
	}, s.FailSwapOn, recorder, client)
	if err != nil {
		return nil, fmt.Errorf("make container manager: %w", err)
	}
	if podTasks > 0 {
		capacity, err := unexported[corev1.ResourceList](manager, "internalCapacity")
		if err != nil {
			slog.Warn("Pods may have as many processes as the machine", "reason", err)
			return manager, nil
		}
		(*capacity)[pidlimit.PIDs] = *resource.NewQuantity(int64(podTasks), resource.DecimalSI)
	}
	return manager, nil
}
