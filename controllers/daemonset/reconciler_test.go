package daemonset_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/daemonset"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

// world has nodes of its own, called <ns>-<letter>, with the label nodes=<ns>.
type world struct {
	*testing.T
	api *apitest.API
	ns  string
}

// nodes makes Nodes by their letters, until the test ends.
func (w world) nodes(letters ...string) {
	w.Helper()
	for _, letter := range letters {
		w.api.Node(w, w.ns+"-"+letter, map[string]string{"nodes": w.ns})
	}
}

// cleanNodes is nodes without the taint that nodelifecycle takes off new ones.
func (w world) cleanNodes(letters ...string) {
	w.Helper()
	w.nodes(letters...)
	for _, letter := range letters {
		w.patchNode(letter, clean)
	}
}

func (w world) patchNode(letter, patch string) {
	w.Helper()
	if _, err := w.api.Client.CoreV1().Nodes().Patch(w.Context(), w.ns+"-"+letter, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		w.Fatal(err)
	}
}

// set creates a DaemonSet named web for the world's nodes.
func (w world) set(change func(*appsv1.DaemonSet)) {
	w.Helper()
	w.create(metav1.CreateOptions{}, change)
}

func (w world) create(options metav1.CreateOptions, change func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	w.Helper()
	d := apitest.Deployment("web", 0)
	set := &appsv1.DaemonSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.DaemonSetSpec{Selector: d.Spec.Selector, Template: d.Spec.Template}}
	set.Spec.Template.Spec.Containers[0].Image = "v1"
	set.Spec.Template.Spec.NodeSelector = map[string]string{"nodes": w.ns}
	if change != nil {
		change(set)
	}
	made, err := w.api.Client.AppsV1().DaemonSets(w.ns).Create(w.Context(), set, options)
	if err != nil {
		w.Fatal(err)
	}
	return made
}

func (w world) patch(patch string) {
	w.Helper()
	if _, err := w.api.Client.AppsV1().DaemonSets(w.ns).Patch(w.Context(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w world) image(image string) {
	w.Helper()
	w.patch(fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, image))
}

// podOn is the name of a Pod on the node that is not being deleted.
func (w world) podOn(letter string) string {
	w.Helper()
	name := ""
	apitest.Eventually(w, func() string {
		pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + w.ns + "-" + letter})
		if err != nil {
			return err.Error()
		}
		for _, p := range pods.Items {
			if p.DeletionTimestamp == nil {
				name = p.Name
				return ""
			}
		}
		return "no Pod on " + letter
	})
	return name
}

func (w world) deletePodOn(letter string) {
	w.Helper()
	if err := w.api.Client.CoreV1().Pods(w.ns).Delete(w.Context(), w.podOn(letter), metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w world) delete(policy metav1.DeletionPropagation) {
	w.Helper()
	sets := w.api.Client.AppsV1().DaemonSets(w.ns)
	if err := sets.Delete(w.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		w.Fatal(err)
	}
	apitest.Eventually(w, func() string {
		if _, err := sets.Get(w.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprint("still there: ", err)
		}
		return ""
	})
}

// Dump prints the DaemonSet, its revisions, Pods and events.
func (w world) Dump() string {
	var lines []string
	sets, err := w.api.Client.AppsV1().DaemonSets(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, d := range sets.Items {
		s := d.Status
		lines = append(lines, fmt.Sprintf("set %s: want=%d have=%d misplaced=%d updated=%d ready=%d available=%d unavailable=%d collisions=%d observed=%v %v", d.Name,
			s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberMisscheduled, s.UpdatedNumberScheduled, s.NumberReady, s.NumberAvailable, s.NumberUnavailable,
			ptr.Deref(s.CollisionCount, 0), s.ObservedGeneration == d.Generation, s.Conditions))
	}
	revisions, err := w.api.Client.AppsV1().ControllerRevisions(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, r := range revisions.Items {
		lines = append(lines, fmt.Sprintf("revision %d: %s owned=%v labels=%v annotations=%v", r.Revision, w.common(r.Name), metav1.GetControllerOf(&r) != nil, w.common(fmt.Sprint(r.Labels)), r.Annotations))
	}
	pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, p := range pods.Items {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
		lines = append(lines, fmt.Sprintf("pod on %s: %s ready=%v deleting=%v owned=%v image=%s labels=%s tolerates=%d", strings.TrimPrefix(p.Spec.NodeName, w.ns), p.Status.Phase, ready,
			p.DeletionTimestamp != nil, metav1.GetControllerOf(&p) != nil, p.Spec.Containers[0].Image, w.common(fmt.Sprint(p.Labels)), len(p.Spec.Tolerations)))
	}
	events, err := w.api.Client.CoreV1().Events(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range events.Items {
		if e.InvolvedObject.Kind == "DaemonSet" && e.Reason != "FailedCreate" { // as often as it is tried
			lines = append(lines, fmt.Sprint("event ", e.Source.Component, " ", e.Type, " ", e.Reason, " ", w.common(e.Message)))
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

// generated are names and hashes.
var generated = regexp.MustCompile(`(web-|hash:)[a-z0-9]+`)

// common is text without what differs between two worlds.
func (w world) common(text string) string {
	return generated.ReplaceAllString(strings.ReplaceAll(text, w.ns, "ns"), "${1}X")
}

func (w world) until(part string) time.Duration {
	w.Helper()
	return apitest.Until(w, part)
}

// all waits until n nodes have a Pod of the template that is wanted, and no
// other Pod is there.
func (w world) all(n int) {
	w.Helper()
	apitest.Eventually(w, func() string { return w.problem(n) })
}

func (w world) problem(n int) string {
	set, err := w.api.Client.AppsV1().DaemonSets(w.ns).Get(w.Context(), "web", metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	s := set.Status
	if s.ObservedGeneration != set.Generation || len(pods.Items) != n || int(s.DesiredNumberScheduled) != n ||
		int(s.NumberAvailable) != n || int(s.UpdatedNumberScheduled) != n || s.NumberMisscheduled != 0 {
		return w.Dump()
	}
	return ""
}

// collect takes away the Pods of a node that is gone, as the garbage collector
// of Pods does after 40 seconds.
func (w world) collect(letter string) {
	w.Helper()
	err := w.api.Client.CoreV1().Pods(w.ns).DeleteCollection(w.Context(), *metav1.NewDeleteOptions(0),
		metav1.ListOptions{FieldSelector: "spec.nodeName=" + w.ns + "-" + letter})
	if err != nil {
		w.Fatal(err)
	}
}

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
			w.collect("c")
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
		w.all(1)
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

func (w world) revisions(n int) {
	w.Helper()
	apitest.Eventually(w, func() string {
		list, err := w.api.Client.AppsV1().ControllerRevisions(w.ns).List(w.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != n {
			return fmt.Sprint(n, " revisions wanted: ", err, w.Dump())
		}
		return ""
	})
}

// neverFewer watches that no fewer Pods than that are ready at any time.
func (w world) neverFewer(n int) (stop func()) {
	w.Helper()
	pods := w.api.Client.CoreV1().Pods(w.ns)
	list, err := pods.List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	events, err := pods.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		cancel()
		w.Fatal(err)
	}
	up := map[string]bool{}
	note := func(p *corev1.Pod, gone bool) {
		up[p.Name] = !gone && p.DeletionTimestamp == nil && podutil.IsPodReady(p)
	}
	for i := range list.Items {
		note(&list.Items[i], false)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range events.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok {
				note(p, e.Type == watch.Deleted)
			}
			ready := 0
			for _, is := range up {
				if is {
					ready++
				}
			}
			if ready < n {
				w.Errorf("%d Pods are ready, want %d at least", ready, n)
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// stage runs ours, or upstream's controllers of these names.
func stage(upstream ...string) apitest.Stage[world] {
	return func(t *testing.T) func(*testing.T) world {
		api := apitest.Run(t, upstream...)
		return func(t *testing.T) world {
			w := world{t, api, api.Namespace(t)}
			api.Kubelet(t, w.ns)
			return w
		}
	}
}

func TestAsUpstream(t *testing.T) {
	apitest.AsUpstream(t, scenarios, stage(), stage(names.DaemonSetController))
}

// TestStartedAnew: the controllers end at any time of a roll-out and others go
// on with it. No more Pods are down than may be, and none is made twice.
func TestStartedAnew(t *testing.T) {
	w := bare(t)
	w.cleanNodes("a", "b", "c", "d", "e", "f")
	w.set(func(d *appsv1.DaemonSet) { slowly(d); rolling("2", "0")(d) })
	run := func(during func(world)) {
		t.Run("controllers", func(t *testing.T) {
			alone(t, w.api, clock.RealClock{})
			during(world{t, w.api, w.ns})
		})
	}
	run(func(w world) { w.all(6) })
	stop := w.neverFewer(4)
	w.image("v2")
	for i := range 8 {
		run(func(world) { time.Sleep(time.Duration(20+10*i) * time.Millisecond) })
	}
	run(func(w world) { w.all(6) })
	stop()
}

// TestMovedClock: when the cluster's clock moves, what is due is done.
func TestMovedClock(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	w := bare(t)
	alone(t, w.api, clock)
	w.cleanNodes("a")
	w.set(func(d *appsv1.DaemonSet) { d.Spec.MinReadySeconds = 36000 })
	w.until("ready=1 available=0")
	if d := apitest.Settled(w.Dump); !strings.Contains(d, "ready=1 available=0") {
		t.Error(d)
	}
	moved := func(part string) {
		t.Helper()
		apitest.Eventually(t, func() string {
			clock.Step(10 * time.Hour)
			if d := w.Dump(); !strings.Contains(d, part) {
				return d
			}
			return ""
		})
	}
	moved("ready=1 available=1")
	w.patch(`{"spec":{"minReadySeconds":0}}`)
	w.until("observed=true")
	// Pods fail for ever; each is replaced when its back-off is over.
	failing := func() string { return w.podOn("a") }
	w.image(apitest.ExitImage(1))
	w.until("Failed ready=false deleting=false")
	apitest.Settled(w.Dump)
	first := failing()
	apitest.Eventually(t, func() string {
		clock.Step(time.Hour)
		if failing() == first {
			return "the failed Pod stays"
		}
		return ""
	})
}

// bare is a world without controllers.
func bare(t *testing.T) world {
	api := apitest.Server(t)
	w := world{t, api, api.BareNamespace(t)}
	api.Kubelet(t, w.ns)
	return w
}

// alone runs ours without others.
func alone(t *testing.T, api *apitest.API, c clock.WithTicker) {
	api.Alone(t, "daemonset-controller", func(factory informers.SharedInformerFactory, recorder record.EventRecorder) (apitest.Reconciler, error) {
		return daemonset.New(daemonset.Config{Client: api.Client, Informers: factory, Recorder: recorder, Clock: c})
	})
}
