package agent

import (
	"context"
	"log/slog"
	"path"
	"strings"
	"time"

	cadvisorapi "github.com/google/cadvisor/lib/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/kubelet/cadvisor"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	serverstats "k8s.io/kubernetes/pkg/kubelet/server/stats"
)

// minTasksFree is the part of its Pods' processes and threads below which a
// node is under PIDPressure and evicts. Upstream has no such limit by default:
// there, who starts too many harms a machine of his own.
const minTasksFree = "10%"

// ownTasks makes k count as counter does, where upstream counts the processes and
// threads of the host.
func ownTasks(k *kubelet.Kubelet, counter taskCounter) error {
	if counter.most == 0 {
		return nil
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
	counter.ResourceAnalyzer = *analyzer
	*analyzer, *summary = counter, taskRanking{counter}
	return nil
}

// taskCounter is a node's summary with the processes and threads of its Pods.
type taskCounter struct {
	serverstats.ResourceAnalyzer
	machine cadvisor.Interface
	// podRoot is the cgroup of all Pods.
	podRoot string
	// most is how many they may have together; 0 leaves upstream's way.
	most int64
}

// Get is the summary.
func (c taskCounter) Get(ctx context.Context, update bool) (*statsapi.Summary, error) {
	summary, err := c.ResourceAnalyzer.Get(ctx, update)
	if err != nil {
		return nil, err
	}
	infos, err := c.read(false)
	if err != nil {
		slog.Warn("processes of Pods are not counted", "reason", err)
		return summary, nil
	}
	if tasks, at, ok := tasksIn(infos[c.podRoot]); ok {
		summary.Node.Rlimit = &statsapi.RlimitStats{Time: metav1.NewTime(at), MaxPID: &c.most, NumOfRunningProcesses: &tasks}
	}
	return summary, nil
}

// read reads the cgroup of all Pods, or all those below it.
func (c taskCounter) read(below bool) (map[string]cadvisorapi.ContainerInfo, error) {
	return c.machine.ContainerInfoV2(c.podRoot, cadvisorapi.RequestOptions{IdType: cadvisorapi.TypeName, Count: 1, Recursive: below})
}

// tasksIn is what the kernel counts in a cgroup against its limit: processes,
// those that ended and that nobody waits for among them, and threads.
func tasksIn(cgroup cadvisorapi.ContainerInfo) (tasks int64, at time.Time, ok bool) {
	if len(cgroup.Stats) == 0 {
		return 0, at, false
	}
	last := cgroup.Stats[len(cgroup.Stats)-1]
	if last.Processes == nil {
		return 0, at, false
	}
	return int64(last.Processes.ThreadsCurrent), last.Timestamp, true
}

// taskRanking is the summary by which Pods are evicted: where upstream ranks
// them by the processes that run, it has what the kernel counts. Of a fork bomb
// nearly all have ended.
type taskRanking struct{ taskCounter }

// Get is the summary.
func (r taskRanking) Get(ctx context.Context, update bool) (*statsapi.Summary, error) {
	summary, err := r.taskCounter.Get(ctx, update)
	// Below half nobody is evicted for it, and nothing more is read.
	if err != nil || summary.Node.Rlimit == nil || *summary.Node.Rlimit.NumOfRunningProcesses < r.most/2 {
		return summary, err
	}
	infos, err := r.read(true)
	if err != nil {
		slog.Warn("Pods are ranked by the processes that run", "reason", err)
		return summary, nil
	}
	count := map[string]uint64{}
	for cgroup, info := range infos {
		if uid, isPod := strings.CutPrefix(path.Base(cgroup), "pod"); isPod {
			tasks, _, _ := tasksIn(info)
			count[uid] = uint64(tasks)
		}
	}
	for i := range summary.Pods {
		if tasks, ok := count[summary.Pods[i].PodRef.UID]; ok {
			summary.Pods[i].ProcessStats = &statsapi.ProcessStats{ProcessCount: &tasks}
		}
	}
	return summary, nil
}
