package podgc_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/metrics/testutil"
	upstream "k8s.io/kubernetes/pkg/controller/podgc"
	"k8s.io/kubernetes/pkg/controller/podgc/metrics"
	"k8s.io/utils/clock"

	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/podgc"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

const (
	quarantine = time.Second
	threshold  = 2
)

func runOurs(t *testing.T, api *apitest.API) {
	api.Alone(t, "", func(factory informers.SharedInformerFactory, _ record.EventRecorder) (apitest.Reconciler, error) {
		return podgc.New(podgc.Config{
			Client: api.Client, Informers: factory, Clock: clock.RealClock{}, Threshold: threshold, Quarantine: quarantine,
		})
	})
}

// runUpstream runs upstream's, impatiently.
func runUpstream(t *testing.T, api *apitest.API) {
	api.AloneUpstream(t, func(ctx context.Context, factory informers.SharedInformerFactory) (func(context.Context), error) {
		core := factory.Core().V1()
		return upstream.NewPodGCInternal(ctx, api.Client, core.Pods(), core.Nodes(), threshold, 50*time.Millisecond, quarantine).Run, nil
	})
}

type world struct {
	*testing.T
	api *apitest.API
	ns  string
}

// held keeps a Pod that is deleted, so that its end can be looked at.
const held = "skiff.test/held"

// pod makes a Pod on a node, or on none.
func (w world) pod(name, node string, change func(*corev1.PodStatus)) {
	w.Helper()
	pods := w.api.Client.CoreV1().Pods(w.ns)
	spec := apitest.PodSpec()
	spec.NodeName, spec.TerminationGracePeriodSeconds = node, nil
	p, err := pods.Create(w.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{held}}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		ctx := context.Background()
		_ = pods.Delete(ctx, name, *metav1.NewDeleteOptions(0))
		_, err := pods.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			w.Error(err)
		}
	})
	if change != nil {
		change(&p.Status)
		if _, err := pods.UpdateStatus(w.Context(), p, metav1.UpdateOptions{}); err != nil {
			w.Fatal(err)
		}
	}
}

func (w world) delete(name string) {
	w.Helper()
	if err := w.api.Client.CoreV1().Pods(w.ns).Delete(w.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w world) patchNode(name, patch string) {
	w.Helper()
	for _, sub := range []string{"", "status"} {
		if _, err := w.api.Client.CoreV1().Nodes().Patch(w.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, sub); err != nil {
			w.Fatal(err)
		}
	}
}

const silent = `"status":{"conditions":[{"type":"Ready","status":"Unknown"}]}`

// Dump implements apitest.Dumper.
func (w world) Dump() string {
	pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	var b strings.Builder
	for _, p := range pods.Items {
		fmt.Fprintf(&b, "%s %s observed=%d", p.Name, p.Status.Phase, p.Status.ObservedGeneration)
		if p.DeletionTimestamp != nil {
			fmt.Fprintf(&b, " deleted grace=%d", *p.DeletionGracePeriodSeconds)
		}
		for _, c := range p.Status.Conditions {
			fmt.Fprintf(&b, " %s=%s/%s/%s/%d", c.Type, c.Status, c.Reason, c.Message, c.ObservedGeneration)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func phase(p corev1.PodPhase, reason string) func(*corev1.PodStatus) {
	return func(s *corev1.PodStatus) { s.Phase, s.Reason = p, reason }
}

var scenarios = map[string]func(world){
	"a Pod without a node is deleted": func(w world) {
		w.pod("a", "", nil)
		w.pod("b", "", nil)
		w.delete("a")
		apitest.Until(w, "a Failed observed=2 deleted grace=0")
	},
	"a Pod names a node that never was": func(w world) {
		w.pod("a", "never", nil)
		apitest.Until(w, "DeletionByPodGC")
	},
	"a node goes and takes its Pods along": func(w world) {
		w.T.Run("node", func(t *testing.T) {
			w.api.Node(t, "goes", nil)
			w.pod("a", "goes", phase(corev1.PodRunning, ""))
			w.pod("ended", "goes", phase(corev1.PodSucceeded, ""))
		})
		apitest.Until(w, "a Failed observed=1 deleted grace=0")
		apitest.Until(w, "ended Succeeded observed=0 deleted grace=0")
	},
	"a node goes and comes back in time": func(w world) {
		w.T.Run("node", func(t *testing.T) {
			w.api.Node(t, "returns", nil)
			w.pod("a", "returns", phase(corev1.PodRunning, ""))
		})
		w.api.Node(w, "returns", nil)
		time.Sleep(2 * quarantine) // nothing may happen
	},
	"a Pod ends on a node that is out of service": func(w world) {
		w.api.Node(w, "dead", nil)
		w.pod("a", "dead", phase(corev1.PodRunning, ""))
		w.pod("b", "dead", phase(corev1.PodRunning, ""))
		w.delete("a")
		w.patchNode("dead", `{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","effect":"NoExecute"}]}}`)
		if got := apitest.Settled(w.Dump); strings.Contains(got, "Failed") {
			w.Errorf("the node is ready, but\n%s", got)
		}
		w.patchNode("dead", "{"+silent+"}")
		apitest.Until(w, "a Failed observed=2 deleted grace=0")
	},
	"a Pod ends on a node that is silent": func(w world) {
		w.api.Node(w, "silent", nil)
		w.pod("a", "silent", phase(corev1.PodRunning, ""))
		w.patchNode("silent", "{"+silent+"}")
		w.delete("a")
	},
	"more Pods have ended than may stay": func(w world) {
		w.api.Node(w, "full", nil)
		for i := range threshold {
			w.pod(fmt.Sprintf("a%d", i), "full", phase(corev1.PodFailed, ""))
		}
		w.pod("evicted", "full", phase(corev1.PodFailed, "Evicted"))
		apitest.Until(w, "evicted Failed observed=0 deleted grace=0")
		w.pod("runs", "full", phase(corev1.PodRunning, ""))
	},
}

// stage gives each scenario a namespace, without the controllers that make
// accounts.
func stage(run func(*testing.T, *apitest.API)) apitest.Stage[world] {
	return func(t *testing.T) func(*testing.T) world {
		api := apitest.Server(t)
		run(t, api)
		return func(t *testing.T) world {
			return world{t, api, api.BareNamespace(t)}
		}
	}
}

func TestAsUpstream(t *testing.T) {
	apitest.AsUpstream(t, scenarios, stage(runOurs), stage(runUpstream))
}

// TestUnscheduled: a Pod without a node is the API server's to delete.
func TestUnscheduled(t *testing.T) {
	w := stage(runOurs)(t)(t)
	pods := w.api.Client.CoreV1().Pods(w.ns)
	for i := range 20 {
		name := fmt.Sprint("a", i)
		if _, err := pods.Create(w.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: apitest.PodSpec()}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.delete(name)
	}
	w.pod("held", "", nil) // a finalizer stays when the API server is done
	w.delete("held")
	apitest.Until(w, "held Failed observed=2 deleted grace=0")
	count, err := testutil.GetCounterMetricValue(metrics.DeletingPodsTotal.WithLabelValues(w.ns, metrics.PodGCReasonTerminatingUnscheduled))
	if err != nil || count != 1 {
		t.Errorf("%v Pods deleted (%v), want one: the one that stayed", count, err)
	}
}
