package nodelifecycle_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/record"
	upstream "k8s.io/kubernetes/pkg/controller/nodelifecycle"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/nodelifecycle"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

// grace is how long a kubelet may be silent in these tests.
const grace = 2 * time.Second

// runOurs runs our controller alone, impatiently.
func runOurs(t *testing.T, api *apitest.API) {
	api.Alone(t, "node-controller", func(factory informers.SharedInformerFactory, recorder record.EventRecorder) (apitest.Reconciler, error) {
		return nodelifecycle.New(nodelifecycle.Config{
			Client: api.Client, Informers: factory, Clock: clock.RealClock{}, StartupGrace: grace, MonitorGrace: grace, Recorder: recorder,
		})
	})
}

// runUpstream runs upstream's, as impatiently.
func runUpstream(t *testing.T, api *apitest.API) {
	api.AloneUpstream(t, func(ctx context.Context, factory informers.SharedInformerFactory) (func(context.Context), error) {
		core := factory.Core().V1()
		c, err := upstream.NewNodeLifecycleController(ctx, factory.Coordination().V1().Leases(), core.Pods(), core.Nodes(),
			factory.Apps().V1().DaemonSets(), api.Client, 100*time.Millisecond, grace, grace, 0.1, 0.01, 50, 0.55)
		if err != nil {
			return nil, err
		}
		return c.Run, nil
	})
}

type world struct {
	*testing.T
	api *apitest.API
	ns  string
	// uids are of this world's nodes: a namesake's last event may come late.
	uids map[types.UID]bool
}

func (w world) node(name string, change func(*corev1.Node)) {
	w.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}}}
	if change != nil {
		change(n)
	}
	n, err := w.api.Client.CoreV1().Nodes().Create(w.Context(), n, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	w.uids[n.UID] = true
	w.Cleanup(func() {
		ctx := context.Background()
		if err := w.api.Client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			w.Error(err)
		}
		if err := w.api.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			w.Error(err)
		}
	})
}

// post does the kubelet's part for a node's status.
func (w world) post(name string, ready corev1.ConditionStatus, more ...corev1.NodeCondition) {
	w.Helper()
	now := metav1.Now()
	conditions := append([]corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Reason: "Kubelet"}}, more...)
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		if !slices.ContainsFunc(conditions, func(c corev1.NodeCondition) bool { return c.Type == kind }) {
			conditions = append(conditions, corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: "Kubelet"})
		}
	}
	for i := range conditions {
		conditions[i].LastHeartbeatTime, conditions[i].LastTransitionTime = now, now
	}
	apitest.Eventually(w, func() string {
		n, err := w.api.Client.CoreV1().Nodes().Get(w.Context(), name, metav1.GetOptions{})
		if err != nil {
			w.Fatal(err)
		}
		n.Status.Conditions = conditions
		if _, err := w.api.Client.CoreV1().Nodes().UpdateStatus(w.Context(), n, metav1.UpdateOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
}

// beat renews a node's lease until the returned function is called.
func (w world) beat(name string) (stop func()) {
	leases := w.api.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			now := metav1.NowMicro()
			lease, err := leases.Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: ptr.To[int32](40), RenewTime: &now}}
				_, _ = leases.Create(ctx, lease, metav1.CreateOptions{})
			} else if err == nil {
				lease.Spec.RenewTime = &now
				_, _ = leases.Update(ctx, lease, metav1.UpdateOptions{})
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	stop = func() { cancel(); <-done }
	w.Cleanup(stop)
	return stop
}

// Dump prints nodes, their Pods and events. The order of taints is nobody's.
func (w world) Dump() string {
	var lines []string
	nodes, err := w.api.Client.CoreV1().Nodes().List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, n := range nodes.Items {
		var taints, conditions []string
		for _, t := range n.Spec.Taints {
			taints = append(taints, fmt.Sprintf("%s:%s(timed=%v)", strings.TrimPrefix(t.Key, "node.kubernetes.io/"), t.Effect, t.TimeAdded != nil))
		}
		for _, c := range n.Status.Conditions {
			conditions = append(conditions, fmt.Sprint(c.Type, "=", c.Status, "/", c.Reason, "/", c.Message))
		}
		slices.Sort(taints)
		slices.Sort(conditions)
		lines = append(lines, fmt.Sprintf("node %s: taints=%v conditions=%v labels=%v", n.Name, taints, conditions, n.Labels))
	}
	pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, p := range pods.Items {
		for _, c := range p.Status.Conditions {
			lines = append(lines, fmt.Sprintf("pod %s: %s=%s", p.Name, c.Type, c.Status))
		}
	}
	events, err := w.api.Client.CoreV1().Events("").List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range events.Items {
		if w.uids[e.InvolvedObject.UID] || e.Namespace == w.ns {
			lines = append(lines, fmt.Sprint("event ", e.Type, " ", e.Source.Component, " ", e.InvolvedObject.Name, " ", e.Reason, ": ", e.Message))
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

func (w world) until(part string) time.Duration {
	w.Helper()
	return apitest.Until(w, part)
}

func (w world) pod(name, node string) {
	w.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: apitest.PodSpec()}
	p.Spec.NodeName = node
	if _, err := w.api.Client.CoreV1().Pods(w.ns).Create(w.Context(), p, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.api.SetStatus(w, w.ns, name, apitest.Running("10.0.0.1", true))
}

var scenarios = map[string]func(w world){
	"a new node becomes ready": func(w world) {
		w.node("x", nil)
		w.beat("x")
		w.post("x", corev1.ConditionTrue)
		w.until("node x: taints=[] ")
	},
	"conditions and cordon": func(w world) {
		w.node("x", nil)
		w.beat("x")
		w.post("x", corev1.ConditionTrue, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue},
			corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue})
		w.until("memory-pressure")
		if _, err := w.api.Client.CoreV1().Nodes().Patch(w.Context(), "x", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("unschedulable:NoSchedule")
		w.post("x", corev1.ConditionTrue)
		w.until("node x: taints=[unschedulable:NoSchedule(timed=true)]")
	},
	"a kubelet says it is not ready, then it is": func(w world) {
		w.node("x", nil)
		w.beat("x")
		w.post("x", corev1.ConditionTrue)
		w.until("node x: taints=[] ")
		w.post("x", corev1.ConditionFalse)
		w.until("not-ready:NoSchedule")
		w.until("not-ready:NoExecute")
		w.post("x", corev1.ConditionTrue)
		w.until("node x: taints=[] ")
	},
	"a kubelet falls silent, and speaks again": func(w world) {
		w.node("x", nil)
		stop := w.beat("x")
		w.post("x", corev1.ConditionTrue)
		w.pod("p", "x")
		w.until("node x: taints=[] ")
		stop()
		w.until("unreachable:NoSchedule")
		w.until("unreachable:NoExecute")
		w.until("pod p: Ready=False")
		w.beat("x")
		w.post("x", corev1.ConditionTrue)
		w.until("node x: taints=[] ")
	},
	"a kubelet never speaks": func(w world) {
		w.node("x", nil)
		w.until("NodeStatusNeverUpdated")
		w.until("unreachable:NoExecute")
	},
	"taints of others stay": func(w world) {
		w.node("x", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}, {Key: "mine", Effect: corev1.TaintEffectNoExecute}}
		})
		w.beat("x")
		w.post("x", corev1.ConditionTrue)
		w.until("node x: taints=[mine:NoExecute(timed=false) mine:NoSchedule(timed=false)]")
	},
	"a node goes": func(w world) {
		w.node("x", nil)
		w.beat("x")
		w.post("x", corev1.ConditionTrue)
		w.until("Registered Node x")
		if err := w.api.Client.CoreV1().Nodes().Delete(w.Context(), "x", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("Removing Node x")
	},
}

// stage runs a controller anew for each scenario, beside two healthy nodes.
func stage(run func(*testing.T, *apitest.API)) apitest.Stage[world] {
	return func(*testing.T) func(*testing.T) world {
		return func(t *testing.T) world {
			api := apitest.Server(t)
			w := bare(t, api)
			run(t, api)
			for _, healthy := range []string{"a", "b"} {
				w.node(healthy, nil)
				w.beat(healthy)
				w.post(healthy, corev1.ConditionTrue)
			}
			w.until("node b: taints=[] ")
			return w
		}
	}
}

func TestAsUpstream(t *testing.T) {
	apitest.AsUpstream(t, scenarios, stage(runOurs), stage(runUpstream))
}

// bare is a world without other controllers.
func bare(t *testing.T, api *apitest.API) world {
	t.Helper()
	return world{t, api, api.BareNamespace(t), map[types.UID]bool{}}
}

// TestAllLost: when no node is ready, none is evicted; when one is again, the
// others are.
func TestAllLost(t *testing.T) {
	api := apitest.Server(t)
	w := bare(t, api)
	runOurs(t, api)
	stops := map[string]func(){}
	for _, name := range []string{"a", "b", "c"} {
		w.node(name, nil)
		stops[name] = w.beat(name)
		w.post(name, corev1.ConditionTrue)
	}
	w.until("node c: taints=[] ")
	for _, stop := range stops {
		stop()
	}
	for name := range stops {
		w.until("node " + name + ": taints=[unreachable:NoSchedule(timed=true)]")
	}
	if d := apitest.Settled(w.Dump); strings.Contains(d, "NoExecute") {
		t.Errorf("all are silent, and one is evicted:\n%s", d)
	}
	w.beat("a")
	w.post("a", corev1.ConditionTrue)
	w.until("unreachable:NoExecute")
}

// TestReadyAtOnce: a node that many write to is schedulable right after it is
// ready.
func TestReadyAtOnce(t *testing.T) {
	for who, run := range map[string]func(*testing.T, *apitest.API){"ours": runOurs, "upstream": runUpstream} {
		t.Run(who, func(t *testing.T) {
			api := apitest.Server(t)
			w := bare(t, api)
			run(t, api)
			var waits []time.Duration
			for i := range 10 {
				name := fmt.Sprint("n", i)
				w.node(name, nil)
				w.beat(name)
				w.post(name, corev1.ConditionFalse)
				quit, done := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(done)
					for i := 0; ; i++ {
						select {
						case <-quit:
							return
						case <-time.After(2 * time.Millisecond):
							_, _ = api.Client.CoreV1().Nodes().Patch(context.Background(), name, types.MergePatchType, []byte(fmt.Sprintf(`{"metadata":{"annotations":{"i":"%d"}}}`, i)), metav1.PatchOptions{})
						}
					}
				}()
				w.post(name, corev1.ConditionTrue)
				waits = append(waits, apitest.Eventually(t, func() string {
					// Not a list: that waits for etcd's progress itself.
					n, err := api.Client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
					if err != nil || len(n.Spec.Taints) > 0 {
						return fmt.Sprint(n.Spec.Taints, err)
					}
					return ""
				}))
				close(quit)
				<-done
			}
			slices.Sort(waits)
			t.Logf("ready to schedulable: median %v, last %v", waits[5], waits[9])
			if who == "ours" && waits[5] > 100*time.Millisecond {
				t.Errorf("a node waits %v", waits[5])
			}
		})
	}
}
