package nodelifecycle

import (
	"maps"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	nodeutil "k8s.io/kubernetes/pkg/controller/util/node"
)

// health is what is remembered of a node. Times are of our own clock, as
// clocks of nodes may differ.
type health struct {
	uid types.UID
	// seen is when the kubelet last gave a sign of life.
	seen time.Time
	// posted tells whether the kubelet ever posted a status, heartbeat is that
	// of the last one.
	posted    bool
	heartbeat metav1.Time
	// renewed is the lease's time at its last renewal.
	renewed metav1.MicroTime
	// unready is since when the node has not been ready; zero when it is.
	unready time.Time
}

// look updates the memory with what a node and its lease (or nil) say now. A
// node that was never looked at is taken for alive.
func look(h *health, node *corev1.Node, lease *coordinationv1.Lease, now time.Time) health {
	ready := condition(node, corev1.NodeReady)
	next := health{posted: ready != nil}
	switch {
	case h == nil && ready == nil:
		next.seen = node.CreationTimestamp.Time
	case h == nil:
		next.seen = now
	default:
		next.seen, next.renewed, next.unready = h.seen, h.renewed, h.unready
		if h.posted != next.posted {
			next.seen = now
		}
	}
	if ready != nil {
		next.heartbeat = ready.LastHeartbeatTime
		if h != nil && h.posted && !h.heartbeat.Equal(&next.heartbeat) {
			next.seen = now
		}
	}
	if lease != nil && lease.Spec.RenewTime != nil && next.renewed.Before(lease.Spec.RenewTime) {
		next.renewed, next.seen = *lease.Spec.RenewTime, now
	}
	switch {
	case ready == nil || ready.Status == corev1.ConditionTrue:
		next.unready = time.Time{}
	case next.unready.IsZero():
		next.unready = now
	}
	return next
}

// silentAt is when the node is given up if nothing is heard of it.
func (h health) silentAt(startup, monitor time.Duration) time.Time {
	if !h.posted {
		return h.seen.Add(startup)
	}
	return h.seen.Add(monitor)
}

// standstill is how late a look at a node may be whose time is up. A later one
// says nothing of the node: we stood still, as does all of a cluster that is
// paused, or no API server took anybody's word.
const standstill = 5 * time.Second

// overslept tells whether the look at a node is so late that it gets its time
// anew. One that was given up before stays so.
func (h health) overslept(node *corev1.Node, startup, monitor time.Duration, now time.Time) bool {
	ready := condition(node, corev1.NodeReady)
	return now.Sub(h.silentAt(startup, monitor)) > standstill && (ready == nil || ready.Status != corev1.ConditionUnknown)
}

func condition(node *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	_, c := nodeutil.GetNodeCondition(&node.Status, kind)
	return c
}

// kubeletConditions are those that nobody but the kubelet knows.
var kubeletConditions = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// giveUp returns the node with conditions Unknown, or nil if they are.
func giveUp(node *corev1.Node, now time.Time) *corev1.Node {
	if ready := condition(node, corev1.NodeReady); ready != nil && ready.Status == corev1.ConditionUnknown {
		return nil
	}
	after := node.DeepCopy()
	for _, kind := range kubeletConditions {
		c := condition(after, kind)
		switch {
		case c == nil:
			after.Status.Conditions = append(after.Status.Conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown,
				Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.Time{Time: now},
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status = corev1.ConditionUnknown
			c.Reason, c.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.Time{Time: now}
		}
	}
	return after
}

// noSchedule are the taints that conditions ask for.
var noSchedule = map[corev1.NodeConditionType]map[corev1.ConditionStatus]string{
	corev1.NodeReady: {
		corev1.ConditionFalse:   corev1.TaintNodeNotReady,
		corev1.ConditionUnknown: corev1.TaintNodeUnreachable,
	},
	corev1.NodeMemoryPressure:     {corev1.ConditionTrue: corev1.TaintNodeMemoryPressure},
	corev1.NodeDiskPressure:       {corev1.ConditionTrue: corev1.TaintNodeDiskPressure},
	corev1.NodeNetworkUnavailable: {corev1.ConditionTrue: corev1.TaintNodeNetworkUnavailable},
	corev1.NodePIDPressure:        {corev1.ConditionTrue: corev1.TaintNodePIDPressure},
}

// eviction is what to do about the NoExecute taints of a node.
type eviction int

const (
	// leaveTaints leaves them as they are.
	leaveTaints eviction = iota
	// clearTaints takes them off.
	clearTaints
	// swapTaint puts the one that the condition asks for in the other's place.
	swapTaint
	// addTaint adds the one that the condition asks for: Pods are evicted.
	addTaint
)

// planEviction decides about the NoExecute taints. all tells that all nodes
// of the cluster are in trouble.
func planEviction(node *corev1.Node, all bool) eviction {
	ready := condition(node, corev1.NodeReady)
	switch {
	case ready == nil:
		return leaveTaints
	case ready.Status == corev1.ConditionTrue || all:
		return clearTaints
	}
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute && isReadiness(t.Key) {
			return swapTaint
		}
	}
	return addTaint
}

func isReadiness(key string) bool {
	return key == corev1.TaintNodeNotReady || key == corev1.TaintNodeUnreachable
}

// planTaints returns the taints that the node should have. Taints of others
// stay; ours stay as they are if they are right, so that their times do.
func planTaints(node *corev1.Node, what eviction, now time.Time) []corev1.Taint {
	want := map[corev1.Taint]bool{}
	for _, c := range node.Status.Conditions {
		if key := noSchedule[c.Type][c.Status]; key != "" {
			want[corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule}] = true
		}
	}
	if node.Spec.Unschedulable {
		want[corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}] = true
	}
	if what == swapTaint || what == addTaint {
		key := noSchedule[corev1.NodeReady][condition(node, corev1.NodeReady).Status]
		want[corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute}] = true
	}
	taints := []corev1.Taint{}
	for _, t := range node.Spec.Taints {
		bare := corev1.Taint{Key: t.Key, Effect: t.Effect}
		if want[bare] || !ours(t, what) {
			taints = append(taints, t)
			delete(want, bare)
		}
	}
	for _, t := range inOrder(want) {
		t.TimeAdded = &metav1.Time{Time: now}
		taints = append(taints, t)
	}
	return taints
}

// ours tells whether the taint is one that we take off.
func ours(t corev1.Taint, what eviction) bool {
	switch t.Effect {
	case corev1.TaintEffectNoSchedule:
		if t.Key == corev1.TaintNodeUnschedulable {
			return true
		}
		for _, byStatus := range noSchedule {
			for _, key := range byStatus {
				if key == t.Key {
					return true
				}
			}
		}
	case corev1.TaintEffectNoExecute:
		return what != leaveTaints && isReadiness(t.Key)
	}
	return false
}

// inOrder sorts taints, for one order of writing.
func inOrder(set map[corev1.Taint]bool) []corev1.Taint {
	var taints []corev1.Taint
	for t := range set {
		taints = append(taints, t)
	}
	slices.SortFunc(taints, func(a, b corev1.Taint) int { return strings.Compare(a.Key+string(a.Effect), b.Key+string(b.Effect)) })
	return taints
}

// planLabels returns the labels that follow others: the old names of the
// operating system and the architecture.
func planLabels(node *corev1.Node) map[string]string {
	labels := map[string]string{}
	for label, old := range map[string]string{
		corev1.LabelOSStable: "beta.kubernetes.io/os", corev1.LabelArchStable: "beta.kubernetes.io/arch",
	} {
		if value, ok := node.Labels[label]; ok && node.Labels[old] != value {
			labels[old] = value
		}
	}
	return labels
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// planPatch writes taints and labels that differ, or nil. It holds for this
// node and these former taints only, and for any version of the rest: a new
// node has several other writers, and their conflicts are none with us.
func planPatch(node *corev1.Node, taints []corev1.Taint, labels map[string]string) []operation {
	var patch []operation
	if !equality.Semantic.DeepEqual(taints, node.Spec.Taints) {
		var before any
		if len(node.Spec.Taints) > 0 {
			before = node.Spec.Taints
		}
		patch = append(patch, operation{"test", "/spec/taints", before}, operation{"add", "/spec/taints", taints})
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		patch = append(patch, operation{"add", "/metadata/labels/" + strings.ReplaceAll(name, "/", "~1"), labels[name]})
	}
	if patch == nil {
		return nil
	}
	return append([]operation{{"test", "/metadata/uid", node.UID}}, patch...)
}
