package daemonset_test

import (
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/daemonset"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
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
