package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/wait"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/utils/clock"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Config is all that the controllers need.
type Config struct {
	// RESTConfig reaches the API server as a cluster administrator, over its
	// in-process loopback. Its rate limit is ignored: there is none.
	RESTConfig *rest.Config
	// ControlPlane names the cluster's ranges and feature gates.
	ControlPlane machinev1alpha1.ControlPlaneConfiguration
	// PKIDir holds ca.crt and ca.key, which sign CSRs, and sa.key, which signs
	// service account tokens. Default machinev1alpha1.PKIDir.
	PKIDir string
	// VolumesDir is where dynamically provisioned volumes lie, on this machine
	// and on every node. Default machinev1alpha1.VolumesDir.
	VolumesDir string
	// CloudDrivers are the emulated cloud's controller services, by CSI driver.
	CloudDrivers map[string]csi.ControllerServer
	// VolumePlugins makes the volume plugins that upstream's controllers have
	// beside their own; nil: none.
	VolumePlugins func() ([]volume.VolumePlugin, error)
	// NodeLabels are the labels that kubelets may not set and the control plane
	// sets, by Node name.
	NodeLabels map[string]map[string]string
	// Upstream names controllers whose upstream implementation runs even where
	// there is one of ours: to compare the two, and as a way out.
	Upstream []string
	// Clock is the cluster's clock. Default the machine's.
	Clock clock.WithTicker
	// Log receives our own messages. Default slog.Default().
	Log *slog.Logger
}

// Manager runs the controllers of one cluster.
type Manager struct {
	cfg Config
}

// New checks cfg. It starts nothing.
func New(cfg Config) (*Manager, error) {
	if cfg.RESTConfig == nil {
		return nil, errors.New("controllers: no client configuration")
	}
	if cfg.PKIDir == "" {
		cfg.PKIDir = machinev1alpha1.PKIDir
	}
	if cfg.VolumesDir == "" {
		cfg.VolumesDir = machinev1alpha1.VolumesDir
	}
	if cfg.VolumePlugins == nil {
		cfg.VolumePlugins = func() ([]volume.VolumePlugin, error) { return nil, nil }
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	_, _, known := split(cfg.Upstream)
	if err := errors.Join(
		known,
		validateSubnets("pod subnet", cfg.ControlPlane.PodSubnets),
		validateSubnets("service subnet", cfg.ControlPlane.ServiceSubnets),
	); err != nil {
		return nil, fmt.Errorf("controllers: %w", err)
	}
	cfg.RESTConfig = rest.CopyConfig(cfg.RESTConfig)
	cfg.RESTConfig.QPS = -1
	cfg.RESTConfig.RateLimiter = nil
	// The API server's own client speaks protobuf, which custom resources do
	// not have.
	cfg.RESTConfig.ContentType, cfg.RESTConfig.AcceptContentTypes = "", ""
	// Controllers touch every kind, deprecated ones too.
	cfg.RESTConfig.WarningHandler = rest.NoWarnings{}
	return &Manager{cfg: cfg}, nil
}

// Run waits for the API server, then runs the controllers until ctx ends. It
// returns when all of them have stopped, or after five seconds.
func (m *Manager) Run(ctx context.Context) error {
	begin := m.cfg.Clock.Now()
	if err := setFeatureGates(m.cfg.ControlPlane.FeatureGates); err != nil {
		return err
	}
	logger := logr.FromSlogHandler(m.cfg.Log.Handler())
	ctrllog.SetLogger(logger)
	// What controller-runtime says of its own starts and stops is no news.
	logger = logger.V(1)

	// Built-in kinds travel as protobuf.
	protobuf := rest.CopyConfig(m.cfg.RESTConfig)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	protobuf.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	clientset, err := kubernetes.NewForConfig(protobuf)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	if err := waitForAPI(ctx, clientset); err != nil {
		return err
	}
	reached := m.cfg.Clock.Since(begin)

	factory := shared.NewInformers(clientset)
	mgr, err := shared.NewManager(m.cfg.RESTConfig, logger, factory)
	if err != nil {
		return fmt.Errorf("controller manager: %w", err)
	}
	up, err := newUpstream(ctx, m.cfg, protobuf, factory)
	if err != nil {
		return err
	}
	own, theirs, err := split(keep(m.cfg.Upstream))
	if err != nil {
		return err
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clientset.CoreV1().Events("")})
	defer events.Shutdown()
	with := &parts{cfg: m.cfg, mgr: mgr, client: clientset, metadata: up.metadataClient, informers: factory, rootCA: up.rootCA, events: events, component: up.context.ComponentConfig}
	for _, name := range own {
		if err := ours[name](ctx, with); err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
	}
	controllers, err := up.build(ctx, theirs)
	if err != nil {
		return err
	}
	built := m.cfg.Clock.Since(begin)
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		m.cfg.Log.Info("controllers started", "ours", len(own), "upstream", len(controllers),
			"reached", reached, "built", built, "after", m.cfg.Clock.Since(begin))
		up.run(ctx, controllers)
		return nil
	})); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// waitForAPI returns when the API server answers.
func waitForAPI(ctx context.Context, client kubernetes.Interface) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, 5*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		_, last = client.Discovery().ServerVersion()
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the API server: %w", errors.Join(err, last))
	}
	return nil
}

// setFeatureGates turns the cluster's feature gates on for upstream's
// controllers. The API server of the same process has usually done it before;
// then this changes nothing.
func setFeatureGates(gates map[string]bool) error {
	known := utilfeature.DefaultMutableFeatureGate.GetAll()
	change := map[string]bool{}
	for name, on := range gates {
		if _, ok := known[featuregate.Feature(name)]; ok && utilfeature.DefaultFeatureGate.Enabled(featuregate.Feature(name)) != on {
			change[name] = on
		}
	}
	if len(change) == 0 {
		return nil
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(change); err != nil {
		return fmt.Errorf("feature gates of the controllers: %w", err)
	}
	return nil
}
