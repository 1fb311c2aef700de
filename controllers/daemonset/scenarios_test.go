package daemonset_test

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

// rolling is an update strategy.
func rolling(unavailable, surge string) func(*appsv1.DaemonSet) {
	return func(d *appsv1.DaemonSet) {
		d.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
			MaxUnavailable: ptr.To(intstr.Parse(unavailable)), MaxSurge: ptr.To(intstr.Parse(surge)),
		}}
	}
}

// slowly lets Pods end in their time, so that they are seen ending.
func slowly(d *appsv1.DaemonSet) {
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](5)
}

const (
	repelled = `{"spec":{"taints":[{"key":"full","effect":"NoSchedule"}]}}`
	expelled = `{"spec":{"taints":[{"key":"broken","effect":"NoExecute"}]}}`
	clean    = `{"spec":{"taints":null}}`
)

var scenarios = map[string]func(w world){
	"on every node, one that comes, and one that goes": func(w world) {
		w.nodes("a", "b")
		w.set(nil)
		w.all(2)
		w.Run("another", func(t *testing.T) {
			other := world{t, w.api, w.ns}
			other.nodes("c")
			other.all(3)
		})
		apitest.Eventually(w, func() string {
			w.drive("c") // as the garbage collector of Pods does after 40 seconds
			return w.problem(2)
		})
	},
	"no node for it": func(w world) {
		w.set(nil)
		w.until("want=0")
		w.until("observed=true")
		w.nodes("a")
		w.all(1)
	},
	"a Pod that is deleted": func(w world) {
		w.nodes("a", "b")
		w.set(nil)
		w.all(2)
		before := w.podOn("a")
		w.deletePodOn("a")
		apitest.Eventually(w, func() string {
			if w.podOn("a") == before {
				return "the same"
			}
			return ""
		})
		w.all(2)
	},
	"nodes that are chosen otherwise": func(w world) {
		w.nodes("a", "b", "c")
		w.set(nil)
		w.all(3)
		w.patchNode("a", `{"metadata":{"labels":{"nodes":"other"}}}`)
		w.all(2)
		w.patchNode("a", fmt.Sprintf(`{"metadata":{"labels":{"nodes":%q,"disk":"fast"}}}`, w.ns))
		w.all(3)
		w.patch(`{"spec":{"template":{"spec":{"nodeSelector":{"disk":"fast"}}}}}`)
		w.all(1)
	},
	"taints, tolerated and not": func(w world) {
		w.nodes("a", "b")
		w.patchNode("a", repelled)
		w.set(nil)
		apitest.Eventually(w, func() string {
			w.drive("a") // the set may be seen before the taint is
			return w.problem(1)
		})
		w.patch(`{"spec":{"template":{"spec":{"tolerations":[{"key":"full","operator":"Exists"}]}}}}`)
		w.all(2)
		w.patchNode("b", expelled)
		w.all(1)
		w.patchNode("b", clean)
		w.all(2)
	},
	"a node that takes no more keeps its Pod": func(w world) {
		w.nodes("a", "b")
		w.set(nil)
		w.all(2)
		w.patchNode("a", repelled)
		looks := 0
		apitest.Eventually(w, func() string {
			looks++ // upstream's does not look by itself
			w.patch(fmt.Sprintf(`{"metadata":{"annotations":{"look":"%d"}}}`, looks))
			if d := w.Dump(); !strings.Contains(d, "want=1 have=1 misplaced=1") {
				return d
			}
			return ""
		})
		w.patchNode("a", clean)
		w.all(2)
	},
	"a node that is cordoned": func(w world) {
		w.nodes("a")
		w.patchNode("a", `{"spec":{"unschedulable":true,"taints":[{"key":"node.kubernetes.io/unschedulable","effect":"NoSchedule"}]}}`)
		w.set(nil)
		w.all(1)
	},
	"update, and update back": func(w world) {
		w.nodes("a", "b", "c", "d")
		w.set(slowly)
		w.all(4)
		stop := w.neverFewer(3)
		w.image("v2")
		w.all(4)
		w.image("v1")
		w.all(4)
		stop()
	},
	"update by half": func(w world) {
		w.nodes("a", "b", "c", "d")
		w.set(rolling("50%", "0"))
		w.all(4)
		stop := w.neverFewer(2)
		w.image("v2")
		w.all(4)
		stop()
	},
	"update with a surge": func(w world) {
		w.nodes("a", "b", "c")
		w.set(rolling("0", "1"))
		w.all(3)
		stop := w.neverFewer(3)
		w.image("v2")
		w.all(3)
		stop()
	},
	"update with a surge that hangs, and its mend": func(w world) {
		w.nodes("a", "b", "c")
		w.set(rolling("0", "1"))
		w.all(3)
		w.image(apitest.BadImage)
		w.until("Running ready=false")
		w.image("v3")
		w.all(3)
	},
	"a surge off a node": func(w world) {
		w.nodes("a", "b")
		w.patchNode("a", `{"metadata":{"labels":{"disk":"fast"}}}`)
		w.set(rolling("0", "1"))
		w.all(2)
		w.patch(`{"spec":{"template":{"spec":{"nodeSelector":{"disk":"fast"}}}}}`)
		w.all(1)
	},
	"update that hangs, and its mend": func(w world) {
		w.nodes("a", "b", "c")
		w.set(nil)
		w.all(3)
		w.image(apitest.BadImage)
		w.until("updated=1 ready=2")
		w.image("v3")
		w.all(3)
	},
	"update on delete": func(w world) {
		w.nodes("a", "b")
		w.set(func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType })
		w.all(2)
		w.image("v2")
		w.until("updated=0")
		w.deletePodOn("a")
		w.until("updated=1 ready=2 available=2")
	},
	"history of one": func(w world) {
		w.nodes("a")
		w.set(func(d *appsv1.DaemonSet) { d.Spec.RevisionHistoryLimit = ptr.To[int32](1) })
		w.all(1)
		for i := 2; i < 6; i++ {
			w.image(fmt.Sprint("v", i))
			w.all(1)
		}
		w.revisions(2)
	},
	"history of none": func(w world) {
		w.nodes("a")
		w.set(func(d *appsv1.DaemonSet) { d.Spec.RevisionHistoryLimit = ptr.To[int32](0) })
		w.all(1)
		w.image("v2")
		w.all(1)
		w.revisions(1)
	},
	"the same revision twice": func(w world) {
		w.nodes("a")
		w.set(nil)
		w.all(1)
		api := w.api.Client.AppsV1().ControllerRevisions(w.ns)
		list, err := api.List(w.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 {
			w.Fatal(len(list.Items), err)
		}
		twin := list.Items[0].DeepCopy()
		twin.ObjectMeta = metav1.ObjectMeta{Name: "web-twin", Labels: map[string]string{"app": "web", appsv1.DefaultDaemonSetUniqueLabelKey: "twin"}}
		twin.Revision = 7
		if _, err := api.Create(w.Context(), twin, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.revisions(1)
		w.until("revision 7")
		w.all(1)
	},
	"two templates with one hash": func(w world) {
		w.nodes("a")
		// Defaulted by the API server, so that the hash is the one.
		made := w.create(metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}, nil)
		squatter := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "web-" + controller.ComputeHash(&made.Spec.Template, nil)}, Revision: 3}
		squatter.Data.Raw = []byte(`{"somebody":"else's"}`)
		if _, err := w.api.Client.AppsV1().ControllerRevisions(w.ns).Create(w.Context(), squatter, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.set(nil)
		w.all(1)
		w.until("collisions=1")
	},
	"Pods that fail": func(w world) {
		w.nodes("a")
		w.set(func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = apitest.ExitImage(1) })
		w.until("FailedDaemonPod")
		w.until("SuccessfulDelete")
		w.until("Failed ready=false deleting=false") // its successor waits
		w.image("v2")
		w.all(1)
	},
	"a Pod that ends": func(w world) {
		w.nodes("a")
		w.set(nil)
		w.all(1)
		w.api.SetStatus(w, w.ns, w.podOn("a"), apitest.Ended(0))
		w.until("SucceededDaemonPod")
		w.all(1)
	},
	"available when minReadySeconds are over": func(w world) {
		w.nodes("a", "b")
		w.set(func(d *appsv1.DaemonSet) { d.Spec.MinReadySeconds = 1 })
		w.all(2)
		w.image("v2")
		w.all(2)
	},
	"a quota that is too small": func(w world) {
		w.api.Quota(w, w.ns, "q", "1")
		w.nodes("a", "b")
		w.set(nil)
		w.until("want=2 have=1 misplaced=0 updated=1 ready=1")
		if err := w.api.Client.CoreV1().ResourceQuotas(w.ns).Delete(w.Context(), "q", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.all(2)
	},
	"deleted, its Pods orphaned, and made again": func(w world) {
		w.nodes("a", "b")
		w.set(nil)
		w.all(2)
		w.delete(metav1.DeletePropagationOrphan)
		w.until("owned=false")
		w.set(nil)
		w.all(2)
	},
	"a second Pod on a node": func(w world) {
		w.nodes("a")
		w.set(nil)
		w.all(1)
		extra := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "younger", Labels: map[string]string{"app": "web"}}, Spec: apitest.PodSpec()}
		extra.Spec.NodeName = w.ns + "-a"
		if _, err := w.api.Client.CoreV1().Pods(w.ns).Create(w.Context(), extra, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("SuccessfulDelete")
		w.all(1)
	},
	"a Pod that is no longer meant": func(w world) {
		w.nodes("a")
		w.set(nil)
		w.all(1)
		if _, err := w.api.Client.CoreV1().Pods(w.ns).Patch(w.Context(), w.podOn("a"), types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{}); err != nil {
			w.Fatal(err)
		}
		apitest.Eventually(w, w.api.Pods(w, w.ns, 2))
		w.until("owned=false")
	},
	"deleted in the foreground": func(w world) {
		w.nodes("a", "b")
		w.set(nil)
		w.all(2)
		w.delete(metav1.DeletePropagationForeground)
		apitest.Eventually(w, w.api.Pods(w, w.ns, 0))
		w.revisions(0)
	},
}
