package statefulset_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
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
}

// set creates a StatefulSet named web.
func (w world) set(replicas int32, change func(*appsv1.StatefulSet)) {
	w.Helper()
	d := apitest.Deployment("web", replicas)
	set := &appsv1.StatefulSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.StatefulSetSpec{
		Replicas: d.Spec.Replicas, Selector: d.Spec.Selector, Template: d.Spec.Template, ServiceName: "web",
	}}
	set.Spec.Template.Spec.Containers[0].Image = "v1"
	if change != nil {
		change(set)
	}
	if _, err := w.api.Client.AppsV1().StatefulSets(w.ns).Create(w.Context(), set, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w world) patch(patch string) {
	w.Helper()
	apitest.Patch(w, w.api.Client.AppsV1().StatefulSets(w.ns), "web", types.StrategicMergePatchType, patch)
}

func (w world) image(image string) {
	w.Helper()
	apitest.SetImage(w, w.api.Client.AppsV1().StatefulSets(w.ns), "web", image)
}

func (w world) deletePod(name string) {
	w.Helper()
	if err := w.api.Client.CoreV1().Pods(w.ns).Delete(w.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
}

// renewed waits until another Pod has the name after change.
func (w world) renewed(name string, change func()) {
	w.Helper()
	pods := w.api.Client.CoreV1().Pods(w.ns)
	before, err := pods.Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	change()
	apitest.Eventually(w, func() string {
		if pod, err := pods.Get(w.Context(), name, metav1.GetOptions{}); err != nil || pod.UID == before.UID {
			return fmt.Sprint("not another one: ", err)
		}
		return ""
	})
}

func (w world) delete(policy metav1.DeletionPropagation) {
	w.Helper()
	apitest.Delete(w, w.api.Client.AppsV1().StatefulSets(w.ns), "web", policy)
}

// Dump prints the set, its revisions, Pods, claims, and the events of each of
// its Pods in their order.
func (w world) Dump() string {
	var lines []string
	sets, err := w.api.Client.AppsV1().StatefulSets(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, s := range sets.Items {
		t := s.Status
		lines = append(lines, fmt.Sprintf("set %s: want=%d have=%d ready=%d available=%d current=%d (%s) updated=%d (%s) collisions=%d observed=%v %v", s.Name, *s.Spec.Replicas,
			t.Replicas, t.ReadyReplicas, t.AvailableReplicas, t.CurrentReplicas, t.CurrentRevision, t.UpdatedReplicas, t.UpdateRevision,
			ptr.Deref(t.CollisionCount, 0), t.ObservedGeneration == s.Generation, t.Conditions))
	}
	revisions, err := w.api.Client.AppsV1().ControllerRevisions(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, r := range revisions.Items {
		lines = append(lines, fmt.Sprintf("revision %s: %d owned=%v", r.Name, r.Revision, metav1.GetControllerOf(&r) != nil))
	}
	pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, p := range pods.Items {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
		lines = append(lines, fmt.Sprintf("pod %s: %s ready=%v deleting=%v owned=%v image=%s host=%s.%s labels=%v volumes=%d", p.Name, p.Status.Phase, ready, p.DeletionTimestamp != nil,
			metav1.GetControllerOf(&p) != nil, p.Spec.Containers[0].Image, p.Spec.Hostname, p.Spec.Subdomain, p.Labels, len(p.Spec.Volumes)))
	}
	claims, err := w.api.Client.CoreV1().PersistentVolumeClaims(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, c := range claims.Items {
		var owners []string
		for _, ref := range c.OwnerReferences {
			owners = append(owners, ref.Kind+"/"+ref.Name)
		}
		lines = append(lines, fmt.Sprintf("claim %s: labels=%v owners=%v deleting=%v", c.Name, c.Labels, owners, c.DeletionTimestamp != nil))
	}
	slices.Sort(lines)
	return strings.Join(append(lines, w.history()...), "\n")
}

// history are the set's events: those of each Pod in their order.
func (w world) history() []string {
	events, err := w.api.Client.CoreV1().Events(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range events.Items {
		if e.InvolvedObject.Kind == "StatefulSet" && !strings.HasPrefix(e.Reason, "Failed") { // as often as it is tried
			line := fmt.Sprint("event ", e.Source.Component, " ", e.Type, " ", e.Reason, " ", e.Message)
			count[line] += int(max(1, e.Count))
			if e.Reason == "SuccessfulDelete" {
				count[line] = 1 // said again by both when a pass comes before the deletion's event
			}
		}
	}
	var lines []string
	for e, n := range count {
		lines = append(lines, fmt.Sprint(e, " ", n))
	}
	slices.Sort(lines)
	return lines
}

func (w world) until(part string) time.Duration {
	w.Helper()
	return apitest.Until(w, part)
}

// all waits until all n Pods are ready and have the revision that is wanted.
func (w world) all(n int) {
	w.Helper()
	apitest.Eventually(w, func() string {
		set, err := w.api.Client.AppsV1().StatefulSets(w.ns).Get(w.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		s := set.Status
		if s.ObservedGeneration != set.Generation || int(s.Replicas) != n || int(s.AvailableReplicas) != n ||
			int(s.UpdatedReplicas) != n || s.CurrentRevision != s.UpdateRevision {
			return w.Dump()
		}
		return ""
	})
}

// data gives the set's Pods a volume each.
func data(s *appsv1.StatefulSet) {
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"own": "label"}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("nobody-provisions-it"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}}
}

func rolling(partition int32, maxUnavailable int) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{
			Partition: &partition, MaxUnavailable: ptr.To(intstr.FromInt(maxUnavailable)),
		}}
	}
}

var scenarios = map[string]func(w world){
	"up in order, down in order, to nothing": func(w world) {
		w.set(3, nil)
		w.all(3)
		w.patch(`{"spec":{"replicas":5}}`)
		w.all(5)
		w.patch(`{"spec":{"replicas":1}}`)
		w.all(1)
		w.patch(`{"spec":{"replicas":0}}`)
		w.all(0)
	},
	"all at once": func(w world) {
		w.set(8, func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement })
		w.all(8)
		w.patch(`{"spec":{"replicas":2}}`)
		w.all(2)
	},
	"the first is never ready": func(w world) {
		w.set(3, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = apitest.BadImage })
		w.until("want=3 have=1 ready=0")
		w.image("v2")
		w.until("updated=0")
		w.deletePod("web-0") // documented: a broken Pod must be deleted by hand
		w.all(3)
	},
	"update, update back": func(w world) {
		w.set(3, nil)
		w.all(3)
		w.image("v2")
		w.all(3)
		w.image("v1")
		w.all(3)
	},
	"update of the upper half, then of all": func(w world) {
		w.set(4, rolling(2, 1))
		w.all(4)
		w.image("v2")
		w.until("have=4 ready=4 available=4 current=2")
		w.deletePod("web-0")
		w.until("pod web-0: Running ready=true deleting=false owned=true image=v1")
		w.patch(`{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
		w.all(4)
	},
	"update two at a time": func(w world) {
		w.set(5, rolling(0, 2))
		w.all(5)
		w.image("v2")
		w.all(5)
	},
	"update that hangs, and its mend": func(w world) {
		w.set(3, nil)
		w.all(3)
		w.image(apitest.BadImage)
		w.until("pod web-2: Running ready=false")
		w.image("v3")
		w.until("observed=true")
		w.deletePod("web-2")
		w.all(3)
	},
	"update on delete": func(w world) {
		w.set(2, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType })
		w.all(2)
		w.image("v2")
		w.until("updated=0")
		w.deletePod("web-0")
		w.until("pod web-0: Running ready=true deleting=false owned=true image=v2")
		w.until("updated=1")
	},
	"ordinals from five": func(w world) {
		w.set(2, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} })
		w.all(2)
		w.patch(`{"spec":{"ordinals":{"start":6}}}`)
		w.until("pod web-7: Running ready=true")
		w.all(2)
	},
	"a Pod that is deleted, and one that fails": func(w world) {
		w.set(2, nil)
		w.all(2)
		w.renewed("web-1", func() { w.deletePod("web-1") })
		w.all(2)
		w.renewed("web-0", func() { w.api.SetStatus(w, w.ns, "web-0", corev1.PodStatus{Phase: corev1.PodFailed}) })
		w.all(2)
	},
	"available when minReadySeconds are over": func(w world) {
		w.set(2, func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = 1 })
		w.all(2)
		w.patch(`{"spec":{"minReadySeconds":0}}`)
		w.image("v2")
		w.all(2)
	},
	"claims that stay": func(w world) {
		w.set(2, data)
		w.all(2)
		w.patch(`{"spec":{"replicas":1}}`)
		w.all(1)
		w.patch(`{"spec":{"replicas":2}}`)
		w.all(2)
		w.delete(metav1.DeletePropagationForeground)
	},
	"claims that go when scaled down": func(w world) {
		w.set(2, func(s *appsv1.StatefulSet) {
			data(s)
			s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
			}
		})
		w.all(2)
		w.patch(`{"spec":{"replicas":1}}`)
		w.all(1)
		apitest.Eventually(w, func() string {
			if d := w.Dump(); strings.Contains(d, "claim data-web-1") {
				return d
			}
			return ""
		})
		w.patch(`{"spec":{"replicas":2}}`)
		w.all(2)
		w.until("claim data-web-1")
	},
	"claims that go with the set": func(w world) {
		w.set(2, func(s *appsv1.StatefulSet) {
			data(s)
			s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenScaled: appsv1.RetainPersistentVolumeClaimRetentionPolicyType, WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
			}
		})
		w.all(2)
		w.until("owners=[StatefulSet/web]")
		w.delete(metav1.DeletePropagationForeground)
		apitest.Eventually(w, func() string {
			if d := w.Dump(); strings.Contains(d, "claim ") {
				return d
			}
			return ""
		})
	},
	"history of one": func(w world) {
		w.set(1, func(s *appsv1.StatefulSet) { s.Spec.RevisionHistoryLimit = ptr.To[int32](1) })
		w.all(1)
		for i := 2; i < 6; i++ {
			w.image(fmt.Sprint("v", i))
			w.all(1)
		}
		apitest.Eventually(w, func() string {
			if d := w.Dump(); strings.Count(d, "revision web") != 2 {
				return d
			}
			return ""
		})
	},
	"deleted, its Pods orphaned, and made again": func(w world) {
		w.set(2, nil)
		w.all(2)
		w.delete(metav1.DeletePropagationOrphan)
		w.until("owned=false")
		w.set(2, nil)
		w.all(2)
	},
	"deleted in the background": func(w world) {
		w.set(2, nil)
		w.all(2)
		w.delete(metav1.DeletePropagationBackground)
		apitest.Eventually(w, w.api.Pods(w, w.ns, 0))
	},
	"a Pod of the name that is somebody else's": func(w world) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{"app": "other"}}, Spec: apitest.PodSpec()}
		if _, err := w.api.Client.CoreV1().Pods(w.ns).Create(w.Context(), p, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.set(2, nil)
		w.until("want=2 have=1 ready=1")
		w.deletePod("web-1")
		w.all(2)
	},
	"a quota that is too small": func(w world) {
		w.api.Quota(w, w.ns, "q", "1")
		w.set(2, nil)
		w.until("want=2 have=1 ready=1")
		if err := w.api.Client.CoreV1().ResourceQuotas(w.ns).Delete(w.Context(), "q", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.all(2)
	},
}

// stage runs ours, or upstream's controllers of these names.
func stage(upstream ...string) apitest.Stage[world] {
	return func(t *testing.T) func(*testing.T) world {
		api := apitest.Run(t, upstream...)
		api.KubeletNode(t)
		return func(t *testing.T) world {
			w := world{t, api, api.Namespace(t)}
			api.Kubelet(t, w.ns)
			return w
		}
	}
}

func TestAsUpstream(t *testing.T) {
	apitest.AsUpstream(t, scenarios, stage(), stage(names.StatefulSetController))
}
