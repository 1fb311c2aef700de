package replicaset_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

type world struct {
	*testing.T
	api *apitest.API
	ns  string
	// sets are the ReplicaSets, or the ReplicationControllers.
	sets sets
}

func (w world) set(name string, replicas int32, change func(*appsv1.ReplicaSet)) {
	w.Helper()
	d := apitest.Deployment(name, replicas)
	rs := &appsv1.ReplicaSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.ReplicaSetSpec{
		Replicas: d.Spec.Replicas, Selector: d.Spec.Selector, Template: d.Spec.Template,
	}}
	if change != nil {
		change(rs)
	}
	if err := w.sets.create(w.Context(), w.ns, rs); err != nil {
		w.Fatal(err)
	}
}

func (w world) patchSet(name, patch string) {
	w.Helper()
	if err := w.sets.patch(w.Context(), w.ns, name, []byte(patch)); err != nil {
		w.Fatal(err)
	}
}

// pods are the Pods, oldest name first.
func (w world) pods() []corev1.Pod {
	w.Helper()
	list, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return list.Items
}

func (w world) ready(n int) {
	w.Helper()
	for i, p := range w.pods()[:n] {
		w.api.SetStatus(w, w.ns, p.Name, apitest.Running(fmt.Sprintf("10.0.0.%d", i+1), true))
	}
}

// Dump prints the sets, their Pods without their random names, and events.
func (w world) Dump() string {
	var lines []string
	sets, err := w.sets.list(w.Context(), w.ns)
	if err != nil {
		w.Fatal(err)
	}
	lines = append(lines, sets...)
	for _, p := range w.pods() {
		owner := "none"
		if ref := metav1.GetControllerOf(&p); ref != nil {
			owner = fmt.Sprint(ref.Kind, ref.Name, *ref.BlockOwnerDeletion)
		}
		lines = append(lines, fmt.Sprintf("pod %s of %s: %s labels=%v deleting=%v", p.GenerateName, owner, p.Status.Phase, p.Labels, p.DeletionTimestamp != nil))
	}
	events, err := w.api.Client.CoreV1().Events(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range events.Items {
		if e.InvolvedObject.Kind == w.sets.kind() && e.Reason != "FailedCreate" { // as often as it is tried
			count[fmt.Sprint("event ", e.Source.Component, e.Reason, strings.Fields(e.Message)[0])]++
		}
	}
	for e, n := range count {
		lines = append(lines, fmt.Sprint(e, " ", n))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (w world) until(part string) time.Duration {
	w.Helper()
	return apitest.Until(w, part)
}

var scenarios = map[string]func(w world){
	"up, ready, down, to nothing": func(w world) {
		w.set("a", 10, nil)
		w.until("have=10")
		w.ready(10)
		w.until("available=10")
		w.patchSet("a", `{"spec":{"replicas":3}}`)
		w.until("want=3 have=3")
		w.patchSet("a", `{"spec":{"replicas":0}}`)
		w.until("want=0 have=0")
	},
	"down takes those that are not ready": func(w world) {
		w.set("a", 4, nil)
		w.until("have=4")
		w.ready(2)
		w.until("ready=2")
		w.patchSet("a", `{"spec":{"replicas":2}}`)
		w.until("want=2 have=2")
	},
	"orphans are adopted, strangers are not": func(w world) {
		for _, name := range []string{"x", "y"} {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "a"}}, Spec: apitest.PodSpec()}
			if name == "y" {
				p.Labels["app"] = "b"
			}
			if _, err := w.api.Client.CoreV1().Pods(w.ns).Create(w.Context(), p, metav1.CreateOptions{}); err != nil {
				w.Fatal(err)
			}
		}
		w.set("a", 2, nil)
		w.until("have=2")
		if n := len(w.pods()); n != 3 {
			w.Errorf("%d Pods", n)
		}
	},
	"a relabelled Pod is let go and replaced": func(w world) {
		w.set("a", 2, nil)
		w.until("have=2")
		_, err := w.api.Client.CoreV1().Pods(w.ns).Patch(w.Context(), w.pods()[0].Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"free"}}}`), metav1.PatchOptions{})
		if err != nil {
			w.Fatal(err)
		}
		w.until("of none")
		apitest.Eventually(w, w.api.Pods(w, w.ns, 3))
	},
	"a Pod that fails is replaced and stays": func(w world) {
		w.set("a", 1, nil)
		w.until("have=1")
		w.api.SetStatus(w, w.ns, w.pods()[0].Name, corev1.PodStatus{Phase: corev1.PodFailed})
		apitest.Eventually(w, w.api.Pods(w, w.ns, 2))
	},
	"a Pod that terminates is replaced at once": func(w world) {
		w.set("a", 1, func(rs *appsv1.ReplicaSet) {
			rs.Spec.Template.Spec.NodeName = "nowhere"
			rs.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](30)
		})
		w.until("have=1")
		if err := w.api.Client.CoreV1().Pods(w.ns).Delete(w.Context(), w.pods()[0].Name, metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("deleting=true")
		w.until("have=1 labeled=1 ready=0 available=0")
	},
	"ready for less than minReadySeconds is not available": func(w world) {
		w.set("a", 2, func(rs *appsv1.ReplicaSet) { rs.Spec.MinReadySeconds = 3600 })
		w.until("have=2")
		w.ready(2)
		w.until("ready=2 available=0")
	},
	// Nothing happens to the Pods when their time is up.
	"available when minReadySeconds are over": func(w world) {
		w.set("a", 2, func(rs *appsv1.ReplicaSet) { rs.Spec.MinReadySeconds = 2 })
		w.until("have=2")
		w.ready(2)
		w.until("ready=2 available=2")
	},
	"a quota refuses, then allows": func(w world) {
		w.api.Quota(w, w.ns, "q", "2")

		w.set("a", 4, nil)
		w.until("ReplicaFailureTrueFailedCreate")
		w.until("have=2")
		if err := w.api.Client.CoreV1().ResourceQuotas(w.ns).Delete(w.Context(), "q", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("have=4 labeled=4 ready=0 available=0")
		w.until("observed=true []")
	},
	"deleted, its Pods orphaned": func(w world) {
		w.set("a", 2, nil)
		w.until("have=2")
		if err := w.sets.delete(w.Context(), w.ns, "a", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}); err != nil {
			w.Fatal(err)
		}
		apitest.Eventually(w, func() string {
			if d := w.Dump(); strings.Contains(d, "set a") {
				return d
			}
			return ""
		})
	},
	"deleted and made again under the same name": func(w world) {
		for range 3 {
			w.set("a", 3, nil)
			w.until("have=3")
			if err := w.sets.delete(w.Context(), w.ns, "a", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}); err != nil {
				w.Fatal(err)
			}
		}
		w.set("a", 3, nil)
		w.until("have=3")
		apitest.Eventually(w, w.api.Pods(w, w.ns, 3))
	},
	"two hundred": func(w world) {
		w.set("a", 200, nil)
		w.until("have=200")
		w.patchSet("a", `{"spec":{"replicas":0}}`)
		w.until("want=0 have=0")
	},
}

// stage runs ours, or upstream's controllers of these names.
func stage(of func(*apitest.API) sets, upstream ...string) apitest.Stage[world] {
	return func(t *testing.T) func(*testing.T) world {
		api := apitest.Run(t, upstream...)
		return func(t *testing.T) world {
			return world{t, api, api.Namespace(t), of(api)}
		}
	}
}

func TestAsUpstream(t *testing.T) {
	apitest.AsUpstream(t, scenarios, stage(replicaSets), stage(replicaSets, names.ReplicaSetController))
}

func TestReplicationControllerAsUpstream(t *testing.T) {
	apitest.AsUpstream(t, scenarios, stage(replicationControllers), stage(replicationControllers, names.ReplicationControllerController))
}
