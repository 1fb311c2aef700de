package agent

import (
	"context"
	"strings"
	"testing"

	cadvisorapi "github.com/google/cadvisor/lib/model"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/kubernetes/pkg/kubelet/cadvisor"
	serverstats "k8s.io/kubernetes/pkg/kubelet/server/stats"
)

// cgroups is a machine in which each cgroup has that many tasks.
type cgroups struct {
	cadvisor.Interface
	tasks map[string]uint64
}

func (c cgroups) ContainerInfoV2(name string, options cadvisorapi.RequestOptions) (map[string]cadvisorapi.ContainerInfo, error) {
	infos := map[string]cadvisorapi.ContainerInfo{}
	for cgroup, tasks := range c.tasks {
		if cgroup == name || options.Recursive && strings.HasPrefix(cgroup, name+"/") {
			infos[cgroup] = cadvisorapi.ContainerInfo{Stats: []*cadvisorapi.ContainerStats{{Processes: &cadvisorapi.ProcessStats{ThreadsCurrent: tasks}}}}
		}
	}
	return infos, nil
}

// somePods are a summary of Pods that have a process each.
type somePods struct {
	serverstats.ResourceAnalyzer
	uids []string
}

func (p somePods) Get(context.Context, bool) (*statsapi.Summary, error) {
	summary := &statsapi.Summary{}
	for _, uid := range p.uids {
		summary.Pods = append(summary.Pods, statsapi.PodStats{PodRef: statsapi.PodReference{UID: uid}, ProcessStats: &statsapi.ProcessStats{ProcessCount: new(uint64(1))}})
	}
	return summary, nil
}

func TestPodsAreRankedByTheirTasksUnderPressure(t *testing.T) {
	const most = 100
	for _, tt := range []struct {
		name string
		all  uint64
		want []uint64
	}{
		{"under pressure", 97, []uint64{1, 95, 1}},
		{"at ease", 40, []uint64{1, 1, 1}},
	} {
		counter := taskCounter{
			ResourceAnalyzer: somePods{uids: []string{"a", "b", "gone"}},
			machine: cgroups{tasks: map[string]uint64{
				"/kubepods": tt.all, "/kubepods/poda": 1, "/kubepods/besteffort": 95,
				"/kubepods/besteffort/podb": 95, "/kubepods/besteffort/podb/c": 95,
			}},
			podRoot: "/kubepods", most: most,
		}
		summary, err := taskRanking{counter}.Get(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		if r := summary.Node.Rlimit; r == nil || *r.MaxPID != most || *r.NumOfRunningProcesses != int64(tt.all) {
			t.Errorf("%s: node: %+v", tt.name, r)
		}
		for i, pod := range summary.Pods {
			if got := *pod.ProcessStats.ProcessCount; got != tt.want[i] {
				t.Errorf("%s: Pod %s: %d, want %d", tt.name, pod.PodRef.UID, got, tt.want[i])
			}
		}
		plain, err := counter.Get(t.Context(), true)
		if err != nil || *plain.Pods[1].ProcessStats.ProcessCount != 1 {
			t.Errorf("%s: who asks for the summary is told %+v, %v", tt.name, plain, err)
		}
	}
}
