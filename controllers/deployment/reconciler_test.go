package deployment_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller"
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

// deploy creates a Deployment named web.
func (w world) deploy(replicas int32, change func(*appsv1.Deployment)) {
	w.Helper()
	d := apitest.Deployment("web", replicas)
	d.Spec.Template.Spec.Containers[0].Image = "v1"
	if change != nil {
		change(d)
	}
	if _, err := w.api.Client.AppsV1().Deployments(w.ns).Create(w.Context(), d, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w world) patch(patch string) {
	w.Helper()
	apitest.Patch(w, w.api.Client.AppsV1().Deployments(w.ns), "web", types.StrategicMergePatchType, patch)
}

func (w world) image(image string) {
	w.Helper()
	apitest.SetImage(w, w.api.Client.AppsV1().Deployments(w.ns), "web", image)
}

// done waits until the rollout of the image is complete.
func (w world) done(image string) {
	w.Helper()
	w.until("complete " + image)
}

// Dump prints the Deployment, its sets and events.
func (w world) Dump() string {
	var lines []string
	list, err := w.api.Client.AppsV1().Deployments(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, d := range list.Items {
		s := d.Status
		lines = append(lines, fmt.Sprintf("deployment %s: want=%d have=%d updated=%d ready=%d available=%d unavailable=%d terminating=%d collisions=%d observed=%v annotations=%v image=%s",
			d.Name, *d.Spec.Replicas, s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas, s.UnavailableReplicas,
			ptr.Deref(s.TerminatingReplicas, -1), ptr.Deref(s.CollisionCount, 0), s.ObservedGeneration == d.Generation, d.Annotations, d.Spec.Template.Spec.Containers[0].Image))
		for _, c := range s.Conditions {
			lines = append(lines, fmt.Sprintf("condition %s=%s %s: %s", c.Type, c.Status, c.Reason, stable(c)))
		}
		if n := *d.Spec.Replicas; s.ObservedGeneration == d.Generation && s.Replicas == n && s.UpdatedReplicas == n && s.AvailableReplicas == n {
			lines = append(lines, "complete "+d.Spec.Template.Spec.Containers[0].Image)
		}
	}
	sets, err := w.api.Client.AppsV1().ReplicaSets(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, rs := range sets.Items {
		lines = append(lines, fmt.Sprintf("set %s: want=%d have=%d image=%s minReady=%d observed=%v available=%d annotations=%v labels=%v owned=%v", rs.Name, *rs.Spec.Replicas, rs.Status.Replicas,
			rs.Spec.Template.Spec.Containers[0].Image, rs.Spec.MinReadySeconds, rs.Status.ObservedGeneration == rs.Generation, rs.Status.AvailableReplicas, rs.Annotations, rs.Labels, metav1.GetControllerOf(&rs) != nil))
	}
	events, err := w.api.Client.CoreV1().Events(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range events.Items {
		// In the middle of a rollout the sizes depend on who is faster.
		if e.InvolvedObject.Kind == "Deployment" && e.Reason != "ScalingReplicaSet" {
			lines = append(lines, fmt.Sprint("event ", e.Source.Component, " ", e.Type, " ", e.Reason, " ", e.Message))
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

// stable is the message without what differs from run to run: random
// names, and which set's progress upstream's last change of the condition was
// about, as it keeps the message while the reason stays.
func stable(c appsv1.DeploymentCondition) string {
	if c.Reason == "NewReplicaSetAvailable" {
		return ""
	}
	return randomSuffix.ReplaceAllString(c.Message, "")
}

// randomSuffix is in a quota's refusal.
var randomSuffix = regexp.MustCompile(`pods "[^"]*"`)

func (w world) until(part string) time.Duration {
	w.Helper()
	return apitest.Until(w, part)
}

func surge(d *appsv1.Deployment, maxSurge, maxUnavailable int) {
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
		MaxSurge: ptr.To(intstr.FromInt(maxSurge)), MaxUnavailable: ptr.To(intstr.FromInt(maxUnavailable)),
	}}
}

var scenarios = map[string]func(w world){
	"update, update back, scale": func(w world) {
		w.deploy(3, nil)
		w.done("v1")
		w.image("v2")
		w.done("v2")
		w.image("v1")
		w.done("v1")
		w.patch(`{"spec":{"replicas":5}}`)
		w.until("want=5 have=5 updated=5 ready=5 available=5")
		w.patch(`{"spec":{"replicas":0}}`)
		w.until("want=0 have=0")
		w.patch(`{"spec":{"replicas":1}}`)
		w.until("want=1 have=1 updated=1 ready=1 available=1")
	},
	"fifty, by percent": func(w world) {
		w.deploy(50, nil)
		w.done("v1")
		w.image("v2")
		w.done("v2")
	},
	"rollover": func(w world) {
		w.deploy(10, func(d *appsv1.Deployment) { surge(d, 3, 2) })
		w.done("v1")
		w.image(apitest.BadImage)
		w.until("set web")
		w.until("have=13 updated=5")
		w.image("v3")
		w.done("v3")
	},
	"proportional scaling of a rollout that hangs": func(w world) {
		w.deploy(10, func(d *appsv1.Deployment) { surge(d, 3, 2) })
		w.done("v1")
		w.image(apitest.BadImage)
		w.until("have=13 updated=5 ready=8 available=8")
		w.patch(`{"spec":{"replicas":30}}`)
		w.until("have=33 updated=13 ready=20 available=20")
		w.patch(`{"spec":{"replicas":15}}`)
		apitest.Eventually(w, func() string {
			d := w.Dump()
			if !strings.Contains(d, "want=15 have=18") {
				return d
			}
			return ""
		})
	},
	"progress deadline": func(w world) {
		w.deploy(2, func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = ptr.To[int32](1) })
		w.done("v1")
		w.image(apitest.BadImage)
		w.until("ProgressDeadlineExceeded")
		w.image("v3")
		w.done("v3")
	},
	"no deadline": func(w world) {
		w.deploy(1, func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = ptr.To[int32](2147483647) })
		w.done("v1")
		w.image("v2")
		w.done("v2")
	},
	"paused from the start, resumed, paused again": func(w world) {
		w.deploy(2, func(d *appsv1.Deployment) { d.Spec.Paused = true })
		w.until("DeploymentPaused")
		w.patch(`{"spec":{"paused":false}}`)
		w.done("v1")
		w.patch(`{"spec":{"paused":true}}`)
		w.until("DeploymentPaused")
		w.image("v2")
		w.patch(`{"spec":{"replicas":4}}`)
		w.until("want=4 have=4 updated=0 ready=4")
		w.patch(`{"spec":{"paused":false}}`)
		w.done("v2")
	},
	"history of one": func(w world) {
		w.deploy(1, func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = ptr.To[int32](1) })
		for i := 1; i < 6; i++ {
			w.image(fmt.Sprint("v", i))
			w.done(fmt.Sprint("v", i))
		}
		w.sets(2)
	},
	"no history": func(w world) {
		w.deploy(1, func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = ptr.To[int32](0) })
		w.done("v1")
		w.image("v2")
		w.done("v2")
		w.sets(1)
	},
	"Recreate": func(w world) {
		w.deploy(5, func(d *appsv1.Deployment) {
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
			d.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](5)
		})
		w.done("v1")
		stop := w.neverTogether("v1", "v2")
		w.image("v2")
		w.done("v2")
		stop()
		w.patch(`{"spec":{"replicas":2}}`)
		w.until("want=2 have=2 updated=2")
	},
	"rollback by annotation": func(w world) {
		w.deploy(1, func(d *appsv1.Deployment) { d.Annotations = map[string]string{"cause": "create"} })
		w.done("v1")
		w.patch(`{"metadata":{"annotations":{"cause":"second"}},"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`)
		w.done("v2")
		w.patch(`{"metadata":{"annotations":{"deprecated.deployment.rollback.to":"0"}}}`)
		w.done("v1")
		w.patch(`{"metadata":{"annotations":{"deprecated.deployment.rollback.to":"2"}}}`)
		w.done("v2")
		w.patch(`{"metadata":{"annotations":{"deprecated.deployment.rollback.to":"77"}}}`)
		w.until("DeploymentRollbackRevisionNotFound")
	},
	"two templates with one hash": func(w world) {
		d := apitest.Deployment("web", 1)
		d.Spec.Template.Spec.Containers[0].Image = "v1"
		// Defaulted as the API server does, so that the hash is the one.
		made, err := w.api.Client.AppsV1().Deployments(w.ns).Create(w.Context(), d, metav1.CreateOptions{DryRun: []string{"All"}})
		if err != nil {
			w.Fatal(err)
		}
		hash := controller.ComputeHash(&made.Spec.Template, nil)
		squatter := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-" + hash}, Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To[int32](0), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "squatter"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "squatter"}}, Spec: apitest.PodSpec()},
		}}
		if _, err := w.api.Client.AppsV1().ReplicaSets(w.ns).Create(w.Context(), squatter, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.deploy(1, nil)
		w.done("v1")
		w.until("collisions=1")
	},
	"sets that were orphaned are adopted": func(w world) {
		w.deploy(2, nil)
		w.done("v1")
		w.image("v2")
		w.done("v2")
		if err := w.api.Client.AppsV1().Deployments(w.ns).Delete(w.Context(), "web", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}); err != nil {
			w.Fatal(err)
		}
		apitest.Eventually(w, func() string {
			if d := w.Dump(); strings.Contains(d, "deployment web") {
				return d
			}
			return ""
		})
		w.deploy(2, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
		w.done("v2")
		w.sets(2)
	},
	"what changes without a rollout": func(w world) {
		w.deploy(2, nil)
		w.done("v1")
		w.patch(`{"metadata":{"annotations":{"note":"a"}},"spec":{"minReadySeconds":1}}`)
		w.until("note:a")
		// Pods that are not ready for a second yet are unavailable until then.
		w.until("minReady=1 observed=true available=2")
		w.sets(1)
	},
	"available after a second": func(w world) {
		w.deploy(2, func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 1 })
		w.done("v1")
		w.image("v2")
		w.done("v2")
	},
	"a quota that is too small": func(w world) {
		w.api.Quota(w, w.ns, "q", "2")

		w.deploy(3, nil)
		w.until("condition ReplicaFailure=True FailedCreate")
		w.patch(`{"spec":{"replicas":2}}`)
		w.done("v1")
	},
}

func (w world) sets(n int) {
	w.Helper()
	apitest.Eventually(w, func() string {
		if d := w.Dump(); strings.Count("\n"+d, "\nset ") != n {
			return d
		}
		return ""
	})
}

// neverTogether watches that no Pods of both images exist at once.
func (w world) neverTogether(a, b string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-time.After(2 * time.Millisecond):
			}
			pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
			if err != nil {
				continue
			}
			seen := map[string]bool{}
			for _, p := range pods.Items {
				seen[p.Spec.Containers[0].Image] = true
			}
			if seen[a] && seen[b] {
				w.Errorf("Pods of %s and %s at once", a, b)
				return
			}
		}
	}()
	return func() { close(quit); <-done }
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
	apitest.AsUpstream(t, scenarios, stage(), stage(names.DeploymentController))
}
