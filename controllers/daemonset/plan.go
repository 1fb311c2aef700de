package daemonset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/kubernetes/pkg/controller/daemon/util"
)

// state is what a pass over a DaemonSet sees.
type state struct {
	set *appsv1.DaemonSet
	// hash is the current revision's.
	hash  string
	nodes []node
	// pods are the DaemonSet's, by the node that they are on or for.
	pods map[string][]*corev1.Pod
	now  time.Time
	// failed asks whether a failed Pod of a node may be replaced now, and if
	// not, when to ask again.
	failed func(node string) (now bool, after time.Duration)
}

// node is a Node, and whether Pods of the DaemonSet start there, and stay.
type node struct {
	name       string
	run, stays bool
}

// plan is what to do.
type plan struct {
	create []string // nodes
	remove []*corev1.Pod
	// again is when to look again; zero is never.
	again time.Duration
	notes []note
}

// note is an event to record.
type note struct{ kind, reason, message string }

func (p *plan) empty() bool { return len(p.create) == 0 && len(p.remove) == 0 }

// wanted are the nodes on which a Pod shall start.
func (s *state) wanted() map[string]bool {
	wanted := map[string]bool{}
	for _, n := range s.nodes {
		if n.run {
			wanted[n.name] = true
		}
	}
	return wanted
}

func (s *state) available(pod *corev1.Pod) bool {
	return podutil.IsPodAvailable(pod, s.set.Spec.MinReadySeconds, metav1.Time{Time: s.now})
}

// updated tells whether the Pod has the current template.
func (s *state) updated(pod *corev1.Pod) bool {
	generation, err := util.GetTemplateGeneration(s.set)
	if err != nil {
		generation = nil // not a number; the hash decides
	}
	return util.IsPodUpdated(pod, s.hash, generation)
}

// manage brings a Pod to every node that shall have one, and takes away what is
// too many, has ended, or does not belong where it is.
func manage(s *state) plan {
	var p plan
	known := map[string]bool{}
	for _, n := range s.nodes {
		known[n.name] = true
		pods, exist := s.pods[n.name]
		switch {
		case n.run && !exist:
			p.create = append(p.create, n.name)
		case n.stays:
			p.keep(s, n, pods)
		default:
			p.remove = append(p.remove, live(pods)...)
		}
	}
	// Without a node they are never scheduled, and nobody else deletes them.
	for _, name := range slices.Sorted(maps.Keys(s.pods)) {
		for _, pod := range live(s.pods[name]) {
			if !known[name] && pod.Spec.NodeName == "" {
				p.remove = append(p.remove, pod)
			}
		}
	}
	return p
}

// keep is manage for a node whose Pods may stay.
func (p *plan) keep(s *state, n node, pods []*corev1.Pod) {
	var running []*corev1.Pod
	for _, pod := range live(pods) {
		switch pod.Status.Phase {
		case corev1.PodFailed:
			// A kubelet that refuses a Pod would be asked without end.
			now, after := s.failed(n.name)
			if !now {
				p.later(after)
				continue
			}
			p.discard(pod, corev1.EventTypeWarning, daemon.FailedDaemonPodReason, "Found failed daemon pod %s/%s on node %s, will try to kill it", n.name)
		case corev1.PodSucceeded:
			p.discard(pod, corev1.EventTypeNormal, daemon.SucceededDaemonPodReason, "Found succeeded daemon pod %s/%s on node %s, will try to delete it", n.name)
		default:
			running = append(running, pod)
		}
	}
	slices.SortFunc(running, byAge)
	switch surges := util.AllowsSurge(s.set); {
	case !surges && len(running) > 1:
		p.remove = append(p.remove, running[1:]...)
	case surges && len(running) == 0 && n.run:
		p.create = append(p.create, n.name)
	case surges && len(running) > 1:
		p.remove = append(p.remove, surplus(s, running)...)
	}
}

// surplus is what a node with several Pods of a DaemonSet that surges can do
// without: all but the oldest of the current template and, while that one is
// not available, the oldest other one if it is ready.
func surplus(s *state, running []*corev1.Pod) (remove []*corev1.Pod) {
	var current, old *corev1.Pod
	for _, pod := range running {
		kept := &old
		if pod.Labels[appsv1.ControllerRevisionHashLabelKey] == s.hash {
			kept = &current
		}
		if *kept != nil {
			remove = append(remove, pod)
			continue
		}
		*kept = pod
	}
	if current != nil && old != nil && (!podutil.IsPodReady(old) || s.available(current)) {
		remove = append(remove, old)
	}
	return remove
}

func (p *plan) later(after time.Duration) {
	if p.again == 0 || after < p.again {
		p.again = after
	}
}

// discard removes a Pod and says so.
func (p *plan) discard(pod *corev1.Pod, kind, reason, format, node string) {
	p.notes = append(p.notes, note{kind, reason, fmt.Sprintf(format, pod.Namespace, pod.Name, node)})
	p.remove = append(p.remove, pod)
}

// live are the Pods that are not being deleted.
func live(pods []*corev1.Pod) []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil })
}

// byAge puts Pods with a node first, then the oldest.
func byAge(a, b *corev1.Pod) int {
	if x, y := a.Spec.NodeName != "", b.Spec.NodeName != ""; x != y {
		if x {
			return -1
		}
		return 1
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// planStatus is the status of what is seen.
func planStatus(s *state) appsv1.DaemonSetStatus {
	status := *s.set.Status.DeepCopy()
	status.ObservedGeneration = s.set.Generation
	status.DesiredNumberScheduled, status.CurrentNumberScheduled, status.NumberMisscheduled = 0, 0, 0
	status.NumberReady, status.NumberAvailable, status.UpdatedNumberScheduled = 0, 0, 0
	for _, n := range s.nodes {
		pods := s.pods[n.name]
		switch {
		case !n.run && len(pods) > 0:
			status.NumberMisscheduled++
		case n.run:
			status.DesiredNumberScheduled++
		}
		if !n.run || len(pods) == 0 {
			continue
		}
		status.CurrentNumberScheduled++
		oldest := slices.MinFunc(pods, byAge)
		if podutil.IsPodReady(oldest) {
			status.NumberReady++
			if s.available(oldest) {
				status.NumberAvailable++
			}
		}
		if s.updated(oldest) {
			status.UpdatedNumberScheduled++
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	return status
}
