package agent

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	critesting "k8s.io/cri-api/pkg/apis/testing"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/pkg/kubelet"
	cadvisortesting "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	"k8s.io/kubernetes/pkg/kubelet/config"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	kubepod "k8s.io/kubernetes/pkg/kubelet/pod"
	"k8s.io/kubernetes/pkg/kubelet/prober"
	serverstats "k8s.io/kubernetes/pkg/kubelet/server/stats"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
	"k8s.io/kubernetes/pkg/kubelet/util"
	"k8s.io/kubernetes/pkg/kubelet/volumemanager"
	"k8s.io/kubernetes/pkg/util/oom"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	volumetypes "k8s.io/kubernetes/pkg/volume/util/types"
	"k8s.io/mount-utils"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func testConfig(t *testing.T) Config {
	t.Helper()
	return Config{
		Node: machinev1alpha1.NodeConfiguration{
			ClusterName: "c", NodeName: "n1", NodeIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, APIServer: "https://127.0.0.1:1",
			ProviderID: "skiff://c/n1", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, ClusterDNS: netip.MustParseAddr("10.96.0.10"), DNSDomain: "cluster.local",
		},
		PKIDir:  "/etc/skiff/pki",
		RootDir: t.TempDir(),
		Runtime: critesting.NewFakeRuntimeService(),
		Images:  critesting.NewFakeImageService(),
	}.complete()
}

// withKubelet lets upstream build a kubelet that stands alone, and calls
// option where our options are called.
func withKubelet(t *testing.T, cfg Config, option func(k *kubelet.Kubelet)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	s, err := kubeletServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	plugins, err := app.ProbeVolumePlugins(ctx, utilfeature.DefaultFeatureGate)
	if err != nil {
		t.Fatal(err)
	}
	// FakeRecorder is upstream's sign for "do not open /dev/kmsg".
	recorder := &record.FakeRecorder{}
	tracker := util.NewPodStartupLatencyTracker()
	mounter := mount.NewFakeMounter(nil)
	called := false
	_, err = kubelet.NewMainKubelet(ctx, &s.KubeletConfiguration, &kubelet.Dependencies{
		Options:                  []kubelet.Option{func(k *kubelet.Kubelet) { called = true; option(k) }},
		CAdvisorInterface:        &cadvisortesting.Fake{},
		ContainerManager:         cm.NewStubContainerManager(),
		PodConfig:                config.NewPodConfig(recorder, tracker),
		Recorder:                 recorder,
		Mounter:                  mounter,
		Subpather:                &subpath.FakeSubpath{},
		HostUtil:                 hostutil.NewFakeHostUtil(nil),
		OOMAdjuster:              oom.NewFakeOOMAdjuster(),
		OSInterface:              kubecontainer.RealOS{},
		TracerProvider:           noop.NewTracerProvider(),
		VolumePlugins:            plugins,
		RemoteRuntimeService:     cfg.Runtime,
		RemoteImageService:       cfg.Images,
		PodStartupLatencyTracker: tracker,
	}, &s.ContainerRuntimeOptions, cfg.Node.NodeName, types.NodeName(cfg.Node.NodeName), nil, "", "", s.CertDirectory,
		cfg.RootDir, t.TempDir(), "", "", false, nil, nil, "", false, false, s.MinimumGCAge, 1, -1, nil, 50, false)
	if err != nil {
		t.Fatal(err)
	}
	if !called {
		t.Fatal("upstream did not call the option")
	}
}

func is[T any](v any) bool { _, ok := v.(T); return ok }

func fieldOf[T any](t *testing.T, pointer any, name string) T {
	t.Helper()
	field, err := unexported[T](pointer, name)
	if err != nil {
		t.Fatal(err)
	}
	return *field
}

func TestUpstreamStillHasTheSeams(t *testing.T) {
	cfg := testConfig(t)
	withKubelet(t, cfg, func(k *kubelet.Kubelet) {
		if err := eagerVolumes(k); err != nil {
			t.Errorf("volumes: %v", err)
		} else if manager := fieldOf[volumemanager.VolumeManager](t, k, "volumeManager"); !is[*eagerVolumeManager](manager) {
			t.Errorf("the kubelet's volume manager is a %T", manager)
		}

		if err := eagerStatus(k); err != nil {
			t.Errorf("status: %v", err)
		} else if cache := fieldOf[kubecontainer.ROCache](t, fieldOf[kubelet.PodWorkers](t, k, "podWorkers"), "podCache"); !is[demandingCache](cache) {
			t.Errorf("the pod workers' cache is a %T", cache)
		}

		if err := promptProbes(t.Context(), k, cfg.Runtime); err != nil {
			t.Errorf("probes: %v", err)
		} else if start := fieldOf[time.Time](t, fieldOf[prober.Manager](t, k, "probeManager"), "start"); time.Since(start) < time.Hour {
			t.Errorf("the probes' start is %v", start)
		}

		if err := ownTasks(k, taskCounter{most: 100}); err != nil {
			t.Errorf("tasks: %v", err)
		} else if summary := fieldOf[serverstats.SummaryProvider](t, fieldOf[eviction.Manager](t, k, "evictionManager"), "summaryProvider"); !is[taskRanking](summary) {
			t.Errorf("eviction asks a %T", summary)
		}
	})
}

func TestAMissingFieldIsAnError(t *testing.T) {
	type other struct{ field time.Duration }
	for name, pointer := range map[string]any{
		"no pointer":  other{},
		"nil":         (*other)(nil),
		"no struct":   new(int),
		"no field":    &struct{ another time.Duration }{},
		"other type":  &struct{ field int64 }{},
		"nothing":     nil,
		"not a field": kubecontainer.NewCache,
	} {
		if _, err := unexported[time.Duration](pointer, "field"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	o := &other{field: 1}
	field, err := unexported[time.Duration](o, "field")
	if err != nil {
		t.Fatal(err)
	}
	if *field = 2; o.field != 2 {
		t.Error("the field was not set")
	}
}

func TestWorkersDemandWhatTheyWaitFor(t *testing.T) {
	cache := kubecontainer.NewCache()
	var demanded []types.UID
	demanding := demandingCache{ROCache: cache, demand: func(uid types.UID) {
		demanded = append(demanded, uid)
		cache.SetObservedTime(uid, time.Now().Add(time.Second))
	}}
	cache.Set("pod", &kubecontainer.PodStatus{ID: "pod", SandboxStatuses: []*runtimeapi.PodSandboxStatus{{Id: "s"}}}, nil, time.Now())
	cache.Set("bare", &kubecontainer.PodStatus{ID: "bare"}, nil, time.Now())
	for _, wait := range []struct {
		uid types.UID
		min time.Time
	}{
		{"pod", time.Time{}},
		{"pod", time.Now()},
		{"bare", time.Now().Add(-time.Minute)},
	} {
		status, err := demanding.GetNewerThan(wait.uid, wait.min)
		if err != nil || status.ID != wait.uid {
			t.Errorf("%s newer than %v: %v, %v", wait.uid, wait.min, status, err)
		}
	}
	if len(demanded) != 1 || demanded[0] != "pod" {
		t.Errorf("demanded %v, want [pod]: once, not by the worker that takes any status, and not without a sandbox", demanded)
	}
}

func TestVolumesAreMountedWhenAPodAsks(t *testing.T) {
	cfg := testConfig(t)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "p-uid"},
		Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			Containers: []corev1.Container{{
				Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}},
			}},
		},
	}
	var manager volumemanager.VolumeManager
	var workers kubelet.PodWorkers
	var pods kubepod.Manager
	withKubelet(t, cfg, func(k *kubelet.Kubelet) {
		if err := eagerVolumes(k); err != nil {
			t.Fatal(err)
		}
		manager = fieldOf[volumemanager.VolumeManager](t, k, "volumeManager")
		workers = fieldOf[kubelet.PodWorkers](t, k, "podWorkers")
		pods = fieldOf[kubepod.Manager](t, k, "podManager")
	})
	ctx := runVolumes(t, manager)
	// From now on the kubelet knows all its pods; this one is new.
	workers.SyncKnownPods(klog.Background(), nil)
	time.Sleep(upstreamPause + 10*volumePoll) // the loops are in a pause

	measure := func(what string, wait func(context.Context, *corev1.Pod) error) {
		t.Helper()
		start := time.Now()
		if err := wait(ctx, pod); err != nil {
			t.Fatal(err)
		}
		// Upstream takes 300 ms at least: it looks, finds nothing, and waits.
		if took := time.Since(start); took > 250*time.Millisecond {
			t.Errorf("%s took %v", what, took)
		}
	}
	pods.AddPod(pod)
	workers.UpdatePod(ctx, kubelet.UpdatePodOptions{Pod: pod, UpdateType: kubetypes.SyncPodCreate, StartTime: time.Now()})
	measure("mount", manager.WaitForAttachAndMount)
	if mounted := manager.GetMountedVolumesForPod(volumetypes.UniquePodName(pod.UID)); len(mounted) != 1 {
		t.Errorf("mounted are %v, want the one volume", mounted)
	}
}

// runVolumes runs a volume manager until the test's end. The context ends with
// it.
func runVolumes(t *testing.T, manager volumemanager.VolumeManager) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		manager.Run(ctx, config.NewSourcesReady(func(sets.Set[string]) bool { return true }))
	}()
	t.Cleanup(func() { cancel(); <-done })
	return ctx
}
