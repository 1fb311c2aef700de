package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"

	noop "go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/server/healthz"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	clientcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/configz"
	metricsfeatures "k8s.io/component-base/metrics/features"
	internalapi "k8s.io/cri-api/pkg/apis"
	"k8s.io/klog/v2"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/kubelet"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	kubeletscheme "k8s.io/kubernetes/pkg/kubelet/apis/config/scheme"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/server"
	"k8s.io/kubernetes/pkg/kubelet/util"
	"k8s.io/kubernetes/pkg/kubelet/watchdog"
	"k8s.io/kubernetes/pkg/util/oom"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	utilexec "k8s.io/utils/exec"

	"golang.org/x/sync/errgroup"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/agent/cloud"
	"github.com/skiff-k8s/skiff/hostnode/agent/needs"
	"github.com/skiff-k8s/skiff/hostnode/agent/stats"
	"github.com/skiff-k8s/skiff/hostnode/removedvolumes"
)

// Config of the node's kubelet. Node, Runtime and Images are required.
type Config struct {
	Node machinev1alpha1.NodeConfiguration

	// Runtime and Images are the CRI, called in process.
	Runtime internalapi.RuntimeService
	Images  internalapi.ImageManagerService
	// RuntimeEndpoint is where others find the CRI; the kubelet only shows
	// it. Default: containerd's socket.
	RuntimeEndpoint string

	// PKIDir holds kubelet-client.{crt,key}, kubelet-server.{crt,key} and
	// ca.crt. Default: the machine's.
	PKIDir string
	// RootDir is the kubelet's directory. Default: the machine's.
	RootDir string
	// ImageDir is the directory whose file system holds images and
	// containers. Default: containerd's.
	ImageDir string
	// SharedDir is a directory of the host's disk. Default: the machine's with
	// the cluster's volumes.
	SharedDir string
	// StaticPodDir has manifests of static pods. Default: the machine's.
	StaticPodDir string
	// LogDir has this process's log, of containerd and the kubelet, and is in
	// the directory whose logs the kubelet serves. Default: the machine's.
	LogDir string
	// CgroupRoot is the cgroup, in every hierarchy, below which the kubelet
	// works. Default "/": the machine has a cgroup namespace.
	CgroupRoot string

	// Damaged is told what the kubelet does not start with, and nil when it
	// starts. Optional.
	Damaged func(*Damage)
}

// Run runs the kubelet until ctx ends. One process runs one kubelet, once:
// upstream keeps state in globals, and ends the process on some errors.
func Run(ctx context.Context, cfg Config) error {
	cfg = cfg.complete()
	if err := cfg.validate(); err != nil {
		return err
	}
	s, err := kubeletServer(cfg)
	if err != nil {
		return err
	}
	if err := applyGates(s); err != nil {
		return err
	}
	if err := nameLogs(cfg.LogDir); err != nil {
		slog.Warn("node log query does not find this log", "reason", err)
	}

	d := newDoors(cfg.Node.NodeName)
	c, err := newClients(cfg, d, s.NodeStatusUpdateFrequency.Duration, float32(s.EventRecordQPS), int(s.EventBurst))
	if err != nil {
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := registerNode(ctx, c.direct, desiredNode(cfg.Node)); err != nil {
			return err
		}
		d.openNode()
		return nil
	})
	group.Go(func() error { return d.Run(ctx) })
	handle := &kubeletHandle{}
	drivers := cloud.New(cloud.Config{Cloud: cfg.Node.Cloud, NodeName: cfg.Node.NodeName, KubeletDir: cfg.RootDir})
	group.Go(func() error { return drivers.Run(ctx) })
	group.Go(func() error {
		watchExits(ctx, cfg.Runtime, handle.requestRelist)
		return ctx.Err()
	})
	recorder := eventRecorder(ctx, cfg, c)
	group.Go(func() error {
		if err := awaitCheckpoints(ctx, cfg, s, recorder); err != nil {
			return err
		}
		deps, err := dependencies(ctx, cfg, s, c, d, handle, drivers, recorder)
		if err != nil {
			return err
		}
		if err := publishConfiguration(&s.KubeletConfiguration); err != nil {
			return err
		}
		if err := app.RunKubelet(ctx, s, deps); err != nil {
			return fmt.Errorf("run kubelet: %w", err)
		}
		return serveHealthz(ctx, net.JoinHostPort(s.HealthzBindAddress, strconv.Itoa(int(s.HealthzPort))))
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// applyGates sets the process's feature gates and checks the configuration,
// in upstream's order: the checks depend on the gates.
func applyGates(s *options.KubeletServer) error {
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(s.FeatureGates); err != nil {
		return fmt.Errorf("set feature gates: %w", err)
	}
	metricsfeatures.ApplyFeatureGates(utilfeature.DefaultFeatureGate)
	if err := options.ValidateKubeletServer(s); err != nil {
		return fmt.Errorf("check kubelet configuration: %w", err)
	}
	return nil
}

// eventMemory is how many kinds of events of how many objects the kubelet
// remembers, to count repetitions: a few of each Pod that a node holds.
// Upstream's 4096 are 5 MB of Pods that are long gone on a node whose Pods come
// and go.
const eventMemory = 1024

// eventRecorder is the kubelet's.
func eventRecorder(ctx context.Context, cfg Config, c *clients) record.EventRecorderLogger {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx), record.WithCorrelatorOptions(record.CorrelatorOptions{LRUCacheSize: eventMemory}))
	broadcaster.StartStructuredLogging(3)
	broadcaster.StartRecordingToSink(&clientcorev1.EventSinkImpl{Interface: c.events.Events("")})
	return broadcaster.NewRecorder(legacyscheme.Scheme, corev1.EventSource{Component: server.ComponentKubelet, Host: cfg.Node.NodeName})
}

// dependencies are all that upstream's kubelet is given.
func dependencies(ctx context.Context, cfg Config, s *options.KubeletServer, c *clients, d *doors, handle *kubeletHandle, drivers *cloud.Registrar,
	recorder record.EventRecorderLogger) (*kubelet.Dependencies, error) {
	logger := klog.FromContext(ctx)
	nodeName := types.NodeName(cfg.Node.NodeName)

	machine, err := stats.New(stats.Config{
		Name: cfg.Node.ClusterName + "/" + cfg.Node.NodeName,
		CPU:  cfg.Node.CPU, MemoryBytes: cfg.Node.MemoryBytes,
		RootDir: cfg.RootDir, ImageDir: cfg.ImageDir,
		Runtime: cfg.Runtime,
	})
	if err != nil {
		return nil, fmt.Errorf("describe machine %s: %w", cfg.Node.NodeName, err)
	}

	mounter := needs.Mounter()
	manager, err := containerManager(ctx, s, cfg.Node.PodTasks, mounter, machine, recorder, c.kube)
	if err != nil {
		return nil, err
	}

	auth, runCAReload, err := app.BuildAuth(nodeName, c.kube, s.KubeletConfiguration)
	if err != nil {
		return nil, fmt.Errorf("make authentication and authorization of the kubelet's API: %w", err)
	}
	runCAReload(ctx.Done())
	// With certificate files named, this reads nothing and makes no key.
	tlsOptions, err := app.InitializeTLS(ctx, &s.KubeletFlags, &s.KubeletConfiguration)
	if err != nil {
		return nil, fmt.Errorf("set up TLS of the kubelet's API: %w", err)
	}

	plugins, err := app.ProbeVolumePlugins(ctx, utilfeature.DefaultFeatureGate)
	if err != nil {
		return nil, fmt.Errorf("list volume plugins: %w", err)
	}
	removed, err := removedvolumes.Plugins(removedvolumes.Config{Cloud: cfg.Node.Cloud, NodeName: cfg.Node.NodeName})
	if err != nil {
		return nil, fmt.Errorf("list volume plugins: %w", err)
	}
	health, err := watchdog.NewHealthChecker(logger)
	if err != nil {
		return nil, fmt.Errorf("make health checker: %w", err)
	}
	health.Start(ctx)

	tracker := util.NewPodStartupLatencyTracker()
	counter := taskCounter{machine: machine, podRoot: manager.GetPodCgroupRoot(), most: int64(cfg.Node.PodTasks)}
	deps := &kubelet.Dependencies{
		Options:                   []kubelet.Option{func(k *kubelet.Kubelet) { openSeams(ctx, cfg, k, drivers, counter); handle.Store(k) }},
		Auth:                      auth,
		CAdvisorInterface:         machine,
		ContainerManager:          manager,
		KubeClient:                c.kube,
		HeartbeatClient:           c.heartbeat,
		OnHeartbeatFailure:        c.closeIdle,
		EventClient:               c.events,
		Recorder:                  recorder,
		Mounter:                   mounter,
		Subpather:                 subpath.New(mounter),
		HostUtil:                  hostutil.NewHostUtil(),
		OOMAdjuster:               oom.NewFakeOOMAdjuster(),
		OSInterface:               kubecontainer.RealOS{},
		TracerProvider:            noop.NewTracerProvider(),
		VolumePlugins:             append(append(needs.Plugins(plugins), drivers.Plugin()), removed...),
		DynamicPluginProber:       app.GetDynamicPluginProber(ctx, s.VolumePluginDir, utilexec.New()),
		TLSOptions:                tlsOptions,
		RemoteRuntimeService:      cfg.Runtime,
		RemoteImageService:        cfg.Images,
		PodStartupLatencyTracker:  tracker,
		NodeStartupLatencyTracker: util.NewNodeStartupLatencyTracker(logger),
		HealthChecker:             health,
	}
	deps.PodConfig = podSource(ctx, &s.KubeletConfiguration, nodeName, c.kube, recorder, tracker, handle.nodeSeen(ctx, d))
	return deps, nil
}

// openSeams takes away what upstream waits for, and adds what it does not look
// at, in fields without exported names. What is not possible is left as upstream has it.
func openSeams(ctx context.Context, cfg Config, k *kubelet.Kubelet, drivers *cloud.Registrar, counter taskCounter) {
	for _, seam := range []struct {
		name string
		open func() error
	}{
		{"volumes are mounted when a pod asks", func() error { return eagerVolumes(k) }},
		{"containers wait for volumes that are gone", func() error { return missVolumes(k, drivers.Lost) }},
		{"exits and deletions are looked at when they happen", func() error { return eagerStatus(k) }},
		{"probes of a fresh node start at once", func() error { return promptProbes(ctx, k, cfg.Runtime) }},
		{"processes are counted node by node", func() error { return ownTasks(k, counter) }},
	} {
		if err := seam.open(); err != nil {
			slog.Warn("kubelet does as upstream's", "without", seam.name, "reason", err)
		}
	}
}

// publishConfiguration serves the configuration at /configz.
func publishConfiguration(cfg *kubeletconfig.KubeletConfiguration) error {
	scheme, _, err := kubeletscheme.NewSchemeAndCodecs()
	if err != nil {
		return fmt.Errorf("publish kubelet configuration: %w", err)
	}
	versioned := &kubeletv1beta1.KubeletConfiguration{}
	if err := scheme.Convert(cfg, versioned, nil); err != nil {
		return fmt.Errorf("publish kubelet configuration: %w", err)
	}
	versioned.SetGroupVersionKind(kubeletv1beta1.SchemeGroupVersion.WithKind("KubeletConfiguration"))
	cz, err := configz.New("kubeletconfig")
	if err != nil {
		return fmt.Errorf("publish kubelet configuration: %w", err)
	}
	return cz.Set(versioned)
}

func serveHealthz(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	healthz.InstallHandler(mux)
	srv := &http.Server{Addr: address, Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.ListenAndServe(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve kubelet health: %w", err)
	}
	return ctx.Err()
}
