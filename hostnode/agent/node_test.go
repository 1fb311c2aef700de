package agent

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
	"k8s.io/kubernetes/plugin/pkg/admission/noderestriction"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// restriction is upstream's admission of what a kubelet may write.
func restriction(t *testing.T) *noderestriction.Plugin {
	t.Helper()
	p := noderestriction.NewPlugin(nodeidentifier.NewDefaultNodeIdentifier())
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	p.InspectFeatureGates(utilfeature.DefaultFeatureGate)
	p.SetExternalKubeInformerFactory(informers.NewSharedInformerFactory(client, 0))
	p.SetUnconditionalAuthorizer(authorizerfactory.NewAlwaysAllowAuthorizer())
	if err := p.ValidateInitialization(); err != nil {
		t.Fatal(err)
	}
	return p
}

// admit asks whether the node's kubelet may write the node.
func admit(t *testing.T, node, old *corev1.Node) error {
	t.Helper()
	internal := func(n *corev1.Node) runtime.Object {
		if n == nil {
			return nil
		}
		out := &core.Node{}
		if err := legacyscheme.Scheme.Convert(n, out, nil); err != nil {
			t.Fatal(err)
		}
		return out
	}
	operation := admission.Create
	if old != nil {
		operation = admission.Update
	}
	kubelet := &user.DefaultInfo{Name: "system:node:" + node.Name, Groups: []string{"system:nodes"}}
	return restriction(t).Admit(context.Background(), admission.NewAttributesRecord(
		internal(node), internal(old), core.Kind("Node").WithVersion("v1"), "", node.Name,
		core.Resource("nodes").WithVersion("v1"), "", operation, nil, false, kubelet), nil)
}

func TestTheKubeletMayCreateItsNode(t *testing.T) {
	cfg := testConfig(t)
	cfg.Node.Labels = map[string]string{
		"app": "x", "topology.kubernetes.io/zone": "a", "skiff.cluster/pool": "p",
		"node-role.kubernetes.io/control-plane": "", "node.kubernetes.io/exclude-from-external-load-balancers": "",
		"node-restriction.kubernetes.io/x": "y", "example.k8s.io/x": "y",
	}
	cfg.Node.Taints = []machinev1alpha1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: "NoSchedule"}}
	node := desiredNode(cfg.Node)
	if err := admit(t, node, nil); err != nil {
		t.Fatalf("create: %v", err)
	}

	_, handedOff := SplitLabels(cfg.Node.Labels)
	for label := range cfg.Node.Labels {
		_, refused := handedOff[label]
		alone := desiredNode(cfg.Node)
		alone.Labels = map[string]string{label: ""}
		if err := admit(t, alone, nil); (err != nil) != refused {
			t.Errorf("label %s is handed off: %v, but upstream says %v", label, refused, err)
		}
	}

	if node.Spec.PodCIDR != "10.244.1.0/24" || len(node.Spec.PodCIDRs) != 1 || node.Spec.ProviderID != "skiff://c/n1" {
		t.Errorf("spec is %+v", node.Spec)
	}
	for label, want := range map[string]string{
		"kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux", "app": "x", "topology.kubernetes.io/zone": "a",
	} {
		if got := node.Labels[label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
	if node.Annotations["volumes.kubernetes.io/controller-managed-attach-detach"] != "true" {
		t.Errorf("annotations are %v", node.Annotations)
	}
}

func TestCorrectNode(t *testing.T) {
	cfg := testConfig(t)
	want := desiredNode(cfg.Node)
	for name, test := range map[string]struct {
		change  func(n *corev1.Node)
		changed bool
		left    string
	}{
		"as wanted":             {func(*corev1.Node) {}, false, ""},
		"a foreign label stays": {func(n *corev1.Node) { n.Labels["mine"] = "1" }, false, "mine=1"},
		"a lost label returns":  {func(n *corev1.Node) { delete(n.Labels, corev1.LabelHostname) }, true, "kubernetes.io/hostname=n1"},
		"no labels at all":      {func(n *corev1.Node) { n.Labels = nil }, true, "kubernetes.io/os=linux"},
		"taints stay": {func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoExecute}}
		}, false, "taint mine"},
		"no pod range yet":       {func(n *corev1.Node) { n.Spec.PodCIDR, n.Spec.PodCIDRs = "", nil }, true, "10.244.1.0/24"},
		"another pod range":      {func(n *corev1.Node) { n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.9.0.0/24", []string{"10.9.0.0/24"} }, false, "10.9.0.0/24"},
		"the status is not ours": {func(n *corev1.Node) { n.Status = corev1.NodeStatus{} }, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			have := want.DeepCopy()
			test.change(have)
			before := have.DeepCopy()
			if got := correctNode(have, want); got != test.changed {
				t.Errorf("changed: %v, want %v", got, test.changed)
			}
			if err := admit(t, have, before); err != nil {
				t.Errorf("the kubelet may not write that: %v", err)
			}
			if got := describe(have); !strings.Contains(got, test.left) {
				t.Errorf("node is %s, want %s in it", got, test.left)
			}
			if correctNode(have, want) {
				t.Error("the second time changed something")
			}
		})
	}
}

func TestPausesBetweenTriesToRegister(t *testing.T) {
	last := func(err error) (pause time.Duration) {
		pause = firstPause
		for range 100 {
			pause = nextPause(pause, err)
		}
		return pause
	}
	if got := last(syscall.ECONNREFUSED); got != longestUnheard {
		t.Errorf("without an answer the pauses grow to %v, want %v", got, longestUnheard)
	}
	refused := apierrors.NewForbidden(corev1.Resource("nodes"), "n1", nil)
	if got := last(refused); got != longestRefused {
		t.Errorf("with a refusal the pauses grow to %v, want %v", got, longestRefused)
	}
	if got := nextPause(longestRefused, syscall.ECONNREFUSED); got != longestUnheard {
		t.Errorf("after a refusal, without an answer, the pause is %v, want %v", got, longestUnheard)
	}
}

func describe(n *corev1.Node) string {
	s := metav1.FormatLabelSelector(metav1.SetAsLabelSelector(n.Labels)) + " " + strings.Join(n.Spec.PodCIDRs, ",")
	for _, taint := range n.Spec.Taints {
		s += " taint " + taint.Key
	}
	return s
}
