package agent

import (
	"context"
	"fmt"
	"log/slog"

	cadvisorapi "github.com/google/cadvisor/lib/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/kubelet/cadvisor"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	serverstats "k8s.io/kubernetes/pkg/kubelet/server/stats"
)

// minTasksFree is the part of its Pods' processes and threads below which a
// node is under PIDPressure and evicts. Upstream has no such limit by default:
// there, who starts too many harms a machine of his own.
const minTasksFree = "10%"

// ownTasks makes k count the processes and threads of its own Pods, of which
// there are most, where upstream counts those of the host; 0 is upstream's way.
func ownTasks(k *kubelet.Kubelet, most int) error {
	if most == 0 {
		return nil
	}
	machine, err := unexported[cadvisor.Interface](k, "cadvisor")
	if err != nil {
		return err
	}
	containers, err := unexported[cm.ContainerManager](k, "containerManager")
	if err != nil {
		return err
	}
	analyzer, err := unexported[serverstats.ResourceAnalyzer](k, "resourceAnalyzer")
	if err != nil {
		return err
	}
	manager, err := unexported[eviction.Manager](k, "evictionManager")
	if err != nil {
		return err
	}
	summary, err := unexported[serverstats.SummaryProvider](*manager, "summaryProvider")
	if err != nil {
		return err
	}
	counter := taskCounter{ResourceAnalyzer: *analyzer, machine: *machine, podRoot: (*containers).GetPodCgroupRoot(), most: int64(most)}
	*analyzer, *summary = counter, counter
	return nil
}

// taskCounter is a node's summary with the processes and threads of its Pods.
type taskCounter struct {
	serverstats.ResourceAnalyzer
	machine cadvisor.Interface
	// podRoot is the cgroup of all Pods.
	podRoot string
	most    int64
}

// Get is the summary.
func (c taskCounter) Get(ctx context.Context, update bool) (*statsapi.Summary, error) {
	summary, err := c.ResourceAnalyzer.Get(ctx, update)
	if err != nil {
		return nil, err
	}
	if summary.Node.Rlimit, err = c.count(); err != nil {
		slog.Warn("processes of Pods are not counted", "reason", err)
	}
	return summary, nil
}

func (c taskCounter) count() (*statsapi.RlimitStats, error) {
	infos, err := c.machine.ContainerInfoV2(c.podRoot, cadvisorapi.RequestOptions{IdType: cadvisorapi.TypeName, Count: 1})
	if err != nil {
		return nil, err
	}
	samples := infos[c.podRoot].Stats
	if len(samples) == 0 {
		return nil, fmt.Errorf("cgroup %s was not read", c.podRoot)
	}
	last := samples[len(samples)-1]
	tasks := int64(last.Processes.ThreadsCurrent)
	return &statsapi.RlimitStats{Time: metav1.NewTime(last.Timestamp), MaxPID: &c.most, NumOfRunningProcesses: &tasks}, nil
}
