package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	kubeletapis "k8s.io/kubelet/pkg/apis"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// Upstream's kubelet waits 100 ms before it first tries to create its Node.
// Ours is created here, as soon as an API server answers, with
// RegisterNode=false. What upstream corrects on a Node that it finds, we
// correct too; like upstream, only at start.

// Pauses between two tries to create the Node. A refused connection to an API
// server that starts on the same host costs nothing; an answer that refuses
// the object, while the server's own start is not over or for good, does.
const (
	firstPause     = 5 * time.Millisecond
	longestUnheard = 20 * time.Millisecond
	longestRefused = time.Second
)

// SplitLabels divides a node's labels in those that its kubelet may set and
// those that NodeRestriction leaves to the control plane, like
// node-role.kubernetes.io/*.
func SplitLabels(labels map[string]string) (own, handedOff map[string]string) {
	own, handedOff = map[string]string{}, map[string]string{}
	for key, value := range labels {
		if restricted(key) {
			handedOff[key] = value
		} else {
			own[key] = value
		}
	}
	return own, handedOff
}

func restricted(label string) bool {
	namespace, _, ok := strings.Cut(label, "/")
	if !ok {
		return false
	}
	below := func(domain string) bool {
		return namespace == domain || strings.HasSuffix(namespace, "."+domain)
	}
	if below(corev1.LabelNamespaceNodeRestriction) {
		return true
	}
	return (below("kubernetes.io") || below("k8s.io")) && !kubeletapis.IsKubeletLabel(label)
}

// desiredNode is the Node object as this node's kubelet may create it.
func desiredNode(node machinev1alpha1.NodeConfiguration) *corev1.Node {
	own, _ := SplitLabels(node.Labels)
	labels := map[string]string{
		corev1.LabelHostname:   node.NodeName,
		corev1.LabelOSStable:   runtime.GOOS,
		corev1.LabelArchStable: runtime.GOARCH,
		kubeletapis.LabelOS:    runtime.GOOS,
		kubeletapis.LabelArch:  runtime.GOARCH,
	}
	maps.Copy(labels, own)
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        node.NodeName,
			Labels:      labels,
			Annotations: map[string]string{volumeutil.ControllerManagedAttachAnnotation: "true"},
		},
		Spec: corev1.NodeSpec{ProviderID: node.ProviderID},
		Status: corev1.NodeStatus{
			// Upstream's quick report at start looks for a condition to turn.
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionFalse,
				LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
				Reason: "KubeletNotReady", Message: "kubelet is starting",
			}},
			Addresses:       nodeAddresses(node),
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: kubeletPort}},
		},
	}
	for _, cidr := range node.PodCIDRs {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, cidr.String())
	}
	if len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
	for _, taint := range node.Taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{
			Key: taint.Key, Value: taint.Value, Effect: corev1.TaintEffect(taint.Effect),
		})
	}
	return n
}

func nodeAddresses(node machinev1alpha1.NodeConfiguration) []corev1.NodeAddress {
	var addresses []corev1.NodeAddress
	for _, ip := range node.NodeIPs {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	return append(addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: node.NodeName})
}

// correctNode makes have carry what the kubelet owns of want, and says
// whether that changed anything. Taints and foreign labels are left alone.
func correctNode(have, want *corev1.Node) bool {
	changed := false
	set := func(have *map[string]string, key, value string) {
		if (*have)[key] == value {
			return
		}
		if *have == nil {
			*have = map[string]string{}
		}
		(*have)[key], changed = value, true
	}
	for key, value := range want.Labels {
		set(&have.Labels, key, value)
	}
	for key, value := range want.Annotations {
		set(&have.Annotations, key, value)
	}
	if have.Spec.ProviderID == "" && want.Spec.ProviderID != "" {
		have.Spec.ProviderID, changed = want.Spec.ProviderID, true
	}
	if len(have.Spec.PodCIDRs) == 0 && len(want.Spec.PodCIDRs) > 0 {
		have.Spec.PodCIDR, have.Spec.PodCIDRs, changed = want.Spec.PodCIDR, want.Spec.PodCIDRs, true
	}
	return changed
}

// registerNode tries until the Node object exists as wanted.
func registerNode(ctx context.Context, client kubernetes.Interface, want *corev1.Node) error {
	log := slog.With("node", want.Name)
	var last string
	pause := firstPause
	for tick := time.NewTimer(0); ; tick.Reset(pause) {
		select {
		case <-ctx.Done():
			tick.Stop()
			return fmt.Errorf("register node %s: %w", want.Name, ctx.Err())
		case <-tick.C:
		}
		created, err := ensureNode(ctx, client, want)
		switch {
		case err == nil:
			log.Info("node registered", "created", created)
			return nil
		case last != err.Error():
			// Once per reason: while the API server starts it is always the same.
			last = err.Error()
			log.Info("node cannot be registered yet", "reason", last)
		}
		pause = nextPause(pause, err)
	}
}

// nextPause is longer than pause, up to what the error allows.
func nextPause(pause time.Duration, err error) time.Duration {
	longest := longestUnheard
	if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		longest = longestRefused
	}
	return min(pause*3/2, longest)
}

func ensureNode(ctx context.Context, client kubernetes.Interface, want *corev1.Node) (created bool, err error) {
	// A short deadline: an API server that hangs while it starts is asked again.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	nodes := client.CoreV1().Nodes()
	_, err = nodes.Create(ctx, want, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err == nil, err
	}
	return false, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		have, err := nodes.Get(ctx, want.Name, metav1.GetOptions{})
		if err != nil || !correctNode(have, want) {
			return err
		}
		_, err = nodes.Update(ctx, have, metav1.UpdateOptions{})
		return err
	})
}
