package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestResourcesAndStatistics(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	c := p.runContainer("a", "while :; do :; done", func(config *runtimeapi.ContainerConfig) {
		config.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 << 20}
	})
	limit := func() string {
		for _, file := range []string{"/sys/fs/cgroup/memory" + cgroup + "/" + c + "/memory.limit_in_bytes", "/sys/fs/cgroup" + cgroup + "/" + c + "/memory.max"} {
			if data, err := os.ReadFile(file); err == nil {
				return strings.TrimSpace(string(data))
			}
		}
		return "none"
	}
	if got := limit(); got != fmt.Sprint(64<<20) {
		t.Errorf("memory limit %s", got)
	}
	must(t, n.cri.UpdateContainerResources(t.Context(), c, &runtimeapi.ContainerResources{
		Linux: &runtimeapi.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 32 << 20},
	}))
	if got := limit(); got != fmt.Sprint(32<<20) {
		t.Errorf("memory limit after the update %s", got)
	}
	eventually(t, "statistics of CPU and memory", func() error {
		stats, err := n.cri.ContainerStats(t.Context(), c)
		if err != nil {
			return err
		}
		if stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
			return fmt.Errorf("container: %v", stats)
		}
		pod, err := n.cri.PodSandboxStats(t.Context(), p.id)
		if err != nil {
			return err
		}
		if len(pod.GetLinux().GetContainers()) != 1 || pod.GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			return fmt.Errorf("pod: %v", pod)
		}
		return nil
	})
	// containerd looks every ten seconds; the kubelet evicts by what it saw.
	n.exec(c, "dd if=/dev/zero of=/written bs=1M count=3 2>/dev/null")
	within(t, 20*time.Second, "disk usage", func() error {
		stats, err := n.cri.ListContainerStats(t.Context(), &runtimeapi.ContainerStatsFilter{Id: c})
		if err != nil {
			return err
		}
		if len(stats) != 1 || stats[0].GetWritableLayer().GetUsedBytes().GetValue() < 3<<20 {
			return fmt.Errorf("container: %v", stats)
		}
		return nil
	})
	n.remove(p.id)
	for _, hierarchy := range hierarchies() {
		if left, _ := filepath.Glob(filepath.Join(hierarchy, cgroup, "*/cgroup.procs")); len(left) > 0 {
			t.Errorf("left after removal: %v", left)
		}
	}
	if _, err := os.Stat("/sys/fs/cgroup/unified" + cgroup); err == nil {
		t.Error("the pod's directory is left in the cgroup2 hierarchy")
	}
}
