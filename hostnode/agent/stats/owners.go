package stats

import (
	"context"
	"fmt"
	"path"
	"strings"

	cadvisor "github.com/google/cadvisor/lib/model"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// owners says whose a cgroup is. The zero value knows nobody.
type owners struct {
	// containers and sandboxes by id, which is their cgroup's last element.
	containers map[string]*runtimeapi.Container
	sandboxes  map[string]*runtimeapi.PodSandbox
	// pods are the ready sandboxes by the name of the pod's cgroup.
	pods map[string]*runtimeapi.PodSandbox
}

// owner is the container, sandbox or pod of one cgroup.
type owner struct {
	id     string
	labels map[string]string
	image  string
	// pod says that the cgroup's processes show the pod's network.
	pod bool
}

func listOwners(runtime internalapi.RuntimeService) (owners, error) {
	// The kubelet's interface for statistics has no context of its own.
	ctx := context.TODO()
	o := owners{
		containers: map[string]*runtimeapi.Container{},
		sandboxes:  map[string]*runtimeapi.PodSandbox{},
		pods:       map[string]*runtimeapi.PodSandbox{},
	}
	containers, err := runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{})
	if err != nil {
		return owners{}, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers {
		o.containers[c.Id] = c
	}
	sandboxes, err := runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{})
	if err != nil {
		return owners{}, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes {
		o.sandboxes[s.Id] = s
		if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			o.pods["pod"+s.GetMetadata().GetUid()] = s
		}
	}
	return o, nil
}

func (o owners) of(cgroup string) owner {
	base := path.Base(cgroup)
	if c := o.containers[base]; c != nil {
		return owner{id: c.Id, labels: c.Labels, image: c.GetImage().GetUserSpecifiedImage()}
	}
	if s := o.sandboxes[base]; s != nil {
		return owner{id: s.Id, labels: s.Labels, pod: true}
	}
	return owner{pod: o.pods[base] != nil}
}

// addSandboxes moves the network of every pod's cgroup to an entry named as
// the sandbox's cgroup would be, where the kubelet and the users of
// /metrics/cadvisor look for it: our sandboxes have no cgroup of their own.
func (o owners) addSandboxes(infos map[string]*cadvisor.ContainerInfo) {
	for name, info := range infos {
		if !strings.HasPrefix(path.Base(name), "pod") {
			continue
		}
		sandbox := o.pods[path.Base(name)]
		if sandbox == nil {
			continue
		}
		entry := path.Join(name, sandbox.Id)
		if _, ok := infos[entry]; !ok && info.Spec.HasNetwork {
			infos[entry] = networkOnly(entry, sandbox, info)
		}
		info.Spec.HasNetwork = false
	}
}

func networkOnly(name string, sandbox *runtimeapi.PodSandbox, pod *cadvisor.ContainerInfo) *cadvisor.ContainerInfo {
	entry := &cadvisor.ContainerInfo{
		ContainerReference: cadvisor.ContainerReference{
			Id: sandbox.Id, Name: name, Namespace: "containerd", Aliases: []string{sandbox.Id, name},
		},
		Spec: cadvisor.ContainerSpec{
			CreationTime: pod.Spec.CreationTime,
			Labels:       sandbox.Labels,
			HasNetwork:   true,
		},
	}
	for _, sample := range pod.Stats {
		entry.Stats = append(entry.Stats, &cadvisor.ContainerStats{Timestamp: sample.Timestamp, Network: sample.Network})
	}
	return entry
}
