package daemonset_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

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
	apitest.Patch(w, w.api.Client.CoreV1().Nodes(), w.ns+"-"+letter, types.MergePatchType, patch)
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
	apitest.Patch(w, w.api.Client.AppsV1().DaemonSets(w.ns), "web", types.StrategicMergePatchType, patch)
}

func (w world) image(image string) {
	w.Helper()
	apitest.SetImage(w, w.api.Client.AppsV1().DaemonSets(w.ns), "web", image)
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
	apitest.Delete(w, w.api.Client.AppsV1().DaemonSets(w.ns), "web", policy)
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

// drive takes away the Pods of a node.
func (w world) drive(letter string) {
	w.Helper()
	err := w.api.Client.CoreV1().Pods(w.ns).DeleteCollection(w.Context(), *metav1.NewDeleteOptions(0),
		metav1.ListOptions{FieldSelector: "spec.nodeName=" + w.ns + "-" + letter})
	if err != nil {
		w.Fatal(err)
	}
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
