package volumesnapshots

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	snapshotscheme "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/scheme"
	snapshotinformers "github.com/kubernetes-csi/external-snapshotter/client/v8/informers/externalversions"
	commoncontroller "github.com/kubernetes-csi/external-snapshotter/v8/pkg/common-controller"
	"github.com/kubernetes-csi/external-snapshotter/v8/pkg/metrics"
	sidecarcontroller "github.com/kubernetes-csi/external-snapshotter/v8/pkg/sidecar-controller"
	storagev1 "k8s.io/api/storage/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// Name is the controller's.
const Name = "volume-snapshots"

const (
	// resync, callTimeout, and the prefix of names are upstream's defaults.
	resync      = 15 * time.Minute
	callTimeout = time.Minute
	namePrefix  = "snapshot"
	wholeUID    = -1
	// firstRetry is less than upstream's second: its controllers disturb each
	// other, and find that out by a conflict.
	firstRetry, lastRetry = 50 * time.Millisecond, 5 * time.Minute
	// workers are fewer than upstream's ten: see the API server's other clients.
	workers = 2
)

// Upstream's controllers write Events by the global scheme, which nobody may
// change once others read it.
func init() { utilruntime.Must(snapshotscheme.AddToScheme(scheme.Scheme)) }

// Config is what the controllers work with.
type Config struct {
	// Drivers are the controller services of the drivers that are emulated, by
	// name.
	Drivers    map[string]csi.ControllerServer
	RESTConfig *rest.Config
	Client     kubernetes.Interface
	Informers  informers.SharedInformerFactory
}

// Controller runs upstream's controllers of snapshots when they are needed.
type Controller struct {
	cfg  Config
	mgr  manager.Manager
	read client.Reader

	// mu guards what runs.
	mu      sync.Mutex
	kinds   apiextensions.Interface
	client  snapshots.Interface
	watched snapshotinformers.SharedInformerFactory
	running map[string]bool
}

// New makes the controller; it touches nothing.
func New(cfg Config) *Controller { return &Controller{cfg: cfg, running: map[string]bool{}} }

// SetupWithManager registers it. Without drivers there is nothing to do.
func (c *Controller) SetupWithManager(mgr ctrl.Manager) (err error) {
	if len(c.cfg.Drivers) == 0 {
		return nil
	}
	c.mgr, c.read = mgr, mgr.GetClient()
	if c.kinds, err = apiextensions.NewForConfig(c.cfg.RESTConfig); err != nil {
		return err
	}
	if c.client, err = snapshots.NewForConfig(c.cfg.RESTConfig); err != nil {
		return err
	}
	c.watched = snapshotinformers.NewSharedInformerFactory(c.client, resync)
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		For(&storagev1.CSIDriver{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			_, ours := o.GetLabels()[machinev1alpha1.CloudMark]
			return ours && c.cfg.Drivers[o.GetName()] != nil
		}))).
		Complete(reconcile.Func(c.reconcile))
}

// reconcile starts what a driver of ours needs, once.
func (c *Controller) reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running[req.Name] {
		return reconcile.Result{}, nil
	}
	ours, err := ensureKinds(ctx, c.kinds)
	if err != nil {
		return reconcile.Result{}, err
	}
	if len(c.running) == 0 && ours {
		if err := c.mgr.Add(c.common()); err != nil {
			return reconcile.Result{}, fmt.Errorf("snapshot controller: %w", err)
		}
	}
	if err := c.mgr.Add(c.sidecar(req.Name)); err != nil {
		return reconcile.Result{}, fmt.Errorf("snapshots of driver %s: %w", req.Name, err)
	}
	c.running[req.Name] = true
	return reconcile.Result{}, nil
}

func limiter() workqueue.TypedRateLimiter[string] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)
}

// runner is what upstream's two controllers have in common.
type runner interface {
	Run(workers int, stop <-chan struct{}, wg *sync.WaitGroup)
}

// start makes a Runnable of a controller.
func (c *Controller) start(r runner) manager.Runnable {
	return manager.RunnableFunc(func(ctx context.Context) error {
		c.watched.Start(ctx.Done())
		r.Run(workers, ctx.Done(), &sync.WaitGroup{})
		return nil
	})
}

// common is upstream's snapshot controller.
func (c *Controller) common() manager.Runnable {
	kinds, core := c.watched.Snapshot().V1(), c.cfg.Informers.Core().V1()
	return c.start(commoncontroller.NewCSISnapshotCommonController(c.client, c.cfg.Client,
		kinds.VolumeSnapshots(), kinds.VolumeSnapshotContents(), kinds.VolumeSnapshotClasses(), nil, nil, nil,
		core.PersistentVolumeClaims(), core.PersistentVolumes(), nil,
		metrics.NewMetricsManager(), resync, limiter(), limiter(), limiter(), limiter(), false, true, false))
}

// sidecar is what upstream runs beside a driver.
func (c *Controller) sidecar(driver string) manager.Runnable {
	kinds := c.watched.Snapshot().V1()
	return c.start(sidecarcontroller.NewCSISnapshotSideCarController(c.client, c.cfg.Client, driver,
		kinds.VolumeSnapshotContents(), kinds.VolumeSnapshotClasses(),
		snapshotter{driver, c.cfg.Drivers[driver]}, nil,
		callTimeout, resync, namePrefix, wholeUID, "", wholeUID, false, limiter(), false, nil, nil, limiter()))
}
