package tainteviction_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller"
	upstream "k8s.io/kubernetes/pkg/controller/tainteviction"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/tainteviction"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

func runOurs(c clock.WithTicker) func(*testing.T, *apitest.API) {
	return func(t *testing.T, api *apitest.API) {
		api.Alone(t, names.TaintEvictionController, func(factory informers.SharedInformerFactory, recorder record.EventRecorder) (apitest.Reconciler, error) {
			return tainteviction.New(tainteviction.Config{Client: api.Client, Informers: factory, Recorder: recorder, Clock: c})
		})
	}
}

func runUpstream(t *testing.T, api *apitest.API) {
	api.AloneUpstream(t, func(ctx context.Context, factory informers.SharedInformerFactory) (func(context.Context), error) {
		core := factory.Core().V1()
		if err := controller.AddPodNodeNameIndexer(core.Pods().Informer()); err != nil {
			return nil, err
		}
		c, err := upstream.New(ctx, api.Client, core.Pods(), core.Nodes(), names.TaintEvictionController)
		if err != nil {
			return nil, err
		}
		return c.Run, nil
	})
}

// world has a namespace, and nodes called <ns>-<name>.
type world struct {
	*testing.T
	api *apitest.API
	ns  string
}

func (w world) node(name string, taints ...string) {
	w.Helper()
	w.api.Node(w, w.ns+"-"+name, nil)
	w.taint(name, taints...)
}

// taint replaces a node's taints. Those whose name begins with a dash only
// keep other Pods away.
func (w world) taint(node string, taints ...string) {
	w.Helper()
	var all []string
	for _, key := range taints {
		effect := "NoExecute"
		if key[0] == '-' {
			key, effect = key[1:], "NoSchedule"
		}
		all = append(all, fmt.Sprintf(`{"key":%q,"effect":%q}`, key, effect))
	}
	patch := fmt.Sprintf(`{"spec":{"taints":[%s]}}`, strings.Join(all, ","))
	if _, err := w.api.Client.CoreV1().Nodes().Patch(w.Context(), w.ns+"-"+node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		w.Fatal(err)
	}
}

// held keeps a Pod that is deleted, so that its end can be looked at.
const held = "skiff.test/held"

func tolerates(key string, seconds *int64) corev1.Toleration {
	return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}
}

// pod makes a Pod on a node, or on none.
func (w world) pod(name, node string, tolerations ...corev1.Toleration) {
	w.Helper()
	pods := w.api.Client.CoreV1().Pods(w.ns)
	spec := apitest.PodSpec()
	spec.Tolerations, spec.TerminationGracePeriodSeconds = tolerations, ptr.To[int64](30)
	if node != "" {
		spec.NodeName = w.ns + "-" + node
	}
	if _, err := pods.Create(w.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{held}}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { w.remove(name) })
}

// remove takes a Pod away, if it is there.
func (w world) remove(name string) {
	w.Helper()
	ctx := context.Background()
	pods := w.api.Client.CoreV1().Pods(w.ns)
	_ = pods.Delete(ctx, name, *metav1.NewDeleteOptions(0))
	_, err := pods.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		w.Error(err)
	}
}

func (w world) patch(pod, patch string) {
	w.Helper()
	if _, err := w.api.Client.CoreV1().Pods(w.ns).Patch(w.Context(), pod, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		w.Fatal(err)
	}
}

// Dump prints Pods and what was said about them.
func (w world) Dump() string {
	pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	var lines []string
	for _, p := range pods.Items {
		line := fmt.Sprintf("%s deleted=%v grace=%d", p.Name, p.DeletionTimestamp != nil, ptr.Deref(p.DeletionGracePeriodSeconds, -1))
		for _, c := range p.Status.Conditions {
			line += fmt.Sprintf(" %s=%s/%s/%s/%d", c.Type, c.Status, c.Reason, c.Message, c.ObservedGeneration)
		}
		lines = append(lines, line)
	}
	events, err := w.api.Client.CoreV1().Events(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range events.Items {
		lines = append(lines, strings.ReplaceAll(fmt.Sprint("event ", e.Source.Component, " ", e.Type, " ", e.InvolvedObject.Kind, " ", e.InvolvedObject.Name, " ", e.Reason, ": ", e.Message, " ", max(1, e.Count)), w.ns, "ns"))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

const (
	marking    = "Marking for deletion Pod ns/a"
	cancelling = "Cancelling deletion of Pod ns/a"
)

func (w world) until(part string) { w.Helper(); apitest.Until(w, part) }

// still checks that the Pod is there when all has settled.
func (w world) still(pod string) {
	w.Helper()
	if d := apitest.Settled(w.Dump); !strings.Contains(d, pod+" deleted=false") {
		w.Error(d)
	}
}

// seen returns when the controller knows what was done before: a Pod that
// tolerates nothing has gone from the node, which has a taint.
func (w world) seen(node string) {
	w.Helper()
	w.pod("marker", node)
	w.until("marker deleted=true")
	w.remove("marker")
}

var long, short = ptr.To[int64](3600), ptr.To[int64](1)

var scenarios = map[string]func(world){
	"at once": func(w world) {
		w.node("n")
		w.pod("a", "n")
		w.pod("b", "n", tolerates("bad", nil))
		w.taint("n", "bad")
		w.until("a deleted=true")
		w.still("b")
	},
	"a Pod that comes to a tainted node": func(w world) {
		w.node("n", "bad")
		w.pod("a", "n")
		w.until("a deleted=true")
	},
	"a Pod that is bound to a tainted node": func(w world) {
		w.node("n", "bad")
		w.pod("a", "")
		w.still("a")
		err := w.api.Client.CoreV1().Pods(w.ns).Bind(w.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: corev1.ObjectReference{Kind: "Node", Name: w.ns + "-n"}}, metav1.CreateOptions{})
		if err != nil {
			w.Fatal(err)
		}
		w.until("a deleted=true")
	},
	"a taint that only keeps others away": func(w world) {
		w.node("n")
		w.pod("a", "n")
		w.taint("n", "-bad")
		w.still("a")
	},
	"after a second": func(w world) {
		w.node("n")
		w.pod("a", "n", tolerates("bad", short))
		w.taint("n", "bad")
		w.until("a deleted=true")
	},
	"the taint goes in time": func(w world) {
		w.node("n")
		w.pod("a", "n", tolerates("bad", long))
		w.taint("n", "bad")
		w.seen("n")
		w.still("a")
		w.taint("n")
		w.until(cancelling)
		w.still("a")
	},
	"no time at all": func(w world) {
		w.node("n", "bad")
		w.pod("a", "n", tolerates("bad", ptr.To[int64](0)))
		w.until("a deleted=true")
	},
	"a second taint that is not tolerated": func(w world) {
		w.node("n", "bad")
		w.pod("a", "n", tolerates("bad", long))
		w.seen("n")
		w.taint("n", "bad", "worse")
		w.until(cancelling)
		w.until(marking)
		w.until("a deleted=true")
	},
	"a second taint that is tolerated for less": func(w world) {
		w.node("n", "bad")
		w.pod("a", "n", tolerates("bad", long), tolerates("worse", short))
		w.seen("n")
		w.taint("n", "bad", "worse")
		time.Sleep(1500 * time.Millisecond) // nothing may happen
		w.still("a")
	},
	"a toleration that is added": func(w world) {
		w.node("n", "bad")
		w.pod("a", "n", tolerates("bad", long))
		w.seen("n")
		w.patch("a", `{"spec":{"tolerations":[{"key":"bad","operator":"Exists","effect":"NoExecute","tolerationSeconds":3600},{"key":"other","operator":"Exists"}]}}`)
		w.still("a")
		w.taint("n", "other")
		w.until(cancelling)
		w.still("a")
	},
	"the Pod goes in time": func(w world) {
		w.node("n", "bad")
		w.pod("a", "n", tolerates("bad", long))
		w.seen("n")
		w.remove("a")
		w.until(cancelling)
	},
	"one that is being deleted": func(w world) {
		w.node("n")
		w.pod("a", "n")
		if err := w.api.Client.CoreV1().Pods(w.ns).Delete(w.Context(), "a", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.node("other", "bad")
		w.seen("other") // so the deletion is known too
		w.taint("n", "bad")
		w.until("DeletionByTaintManager")
	},
	"the node goes before the time is over": func(w world) {
		w.T.Run("node", func(t *testing.T) {
			other := world{t, w.api, w.ns}
			other.node("n", "bad")
			w.pod("a", "n", tolerates("bad", short))
			w.seen("n")
		})
		w.until("a deleted=true")
	},
}

// stage gives each scenario a namespace, without other controllers.
func stage(run func(*testing.T, *apitest.API)) apitest.Stage[world] {
	return func(t *testing.T) func(*testing.T) world {
		api := apitest.Server(t)
		run(t, api)
		return func(t *testing.T) world { return world{t, api, api.BareNamespace(t)} }
	}
}

func TestAsUpstream(t *testing.T) {
	apitest.AsUpstream(t, scenarios, stage(runOurs(clock.RealClock{})), stage(runUpstream))
}

// TestMovedClock: Pods go when the cluster's clock says so.
func TestMovedClock(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	w := stage(runOurs(clock))(t)(t)
	w.node("n", "bad")
	w.pod("a", "n", tolerates("bad", long))
	w.pod("b", "n", tolerates("bad", ptr.To[int64](10*365*24*3600)))
	w.pod("c", "n", tolerates("bad", nil))
	w.seen("n")
	w.still("a")
	clock.Step(time.Hour - time.Minute)
	w.still("a")
	clock.Step(2 * time.Minute)
	apitest.Eventually(t, func() string {
		if d := w.Dump(); !strings.Contains(d, "a deleted=true") {
			clock.Step(time.Second) // whoever was between its look and its wait
			return d
		}
		return ""
	})
	w.still("b")
	w.still("c")
	w.taint("n")
	w.until("Cancelling deletion of Pod ns/b")
	clock.Step(20 * 365 * 24 * time.Hour)
	w.still("b")
	w.still("c")
}

// TestNamesake: a Pod made again under the name of one that was about to go
// has its full time.
func TestNamesake(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	w := stage(runOurs(clock))(t)(t)
	w.node("n", "bad")
	w.pod("a", "n", tolerates("bad", long))
	w.seen("n")
	clock.Step(time.Hour - time.Minute)
	w.remove("a")
	w.pod("a", "n", tolerates("bad", long))
	w.until(cancelling)
	w.still("a")
	clock.Step(2 * time.Minute)
	w.still("a")
}
