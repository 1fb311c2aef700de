package hostpath

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	volumeevents "k8s.io/kubernetes/pkg/controller/volume/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Name is the controller's.
const Name = "host-path-provisioner"

// Config is what the controller works with.
type Config struct {
	// VolumesDir is the directory with a directory for each volume. It exists.
	VolumesDir string
	Recorder   record.EventRecorder
}

// Controller makes and removes volumes.
type Controller struct {
	cfg         Config
	client      client.Client
	directories directories
}

// New makes a controller; it touches nothing.
func New(cfg Config) *Controller {
	return &Controller{cfg: cfg, directories: directories{root: cfg.VolumesDir}}
}

// SetupWithManager registers the controller, its StorageClass and its sweep.
func (c *Controller) SetupWithManager(mgr ctrl.Manager) error {
	c.client = mgr.GetClient()
	if err := ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		For(&corev1.PersistentVolumeClaim{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			claim, ok := o.(*corev1.PersistentVolumeClaim)
			return ok && asks(claim)
		}))).
		Complete(reconcile.Func(c.reconcileClaim)); err != nil {
		return err
	}
	if err := ctrl.NewControllerManagedBy(mgr).
		Named(Name+"-reclaim").
		For(&corev1.PersistentVolume{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			pv, ok := o.(*corev1.PersistentVolume)
			return ok && planVolume(pv) != step{}
		}))).
		Complete(reconcile.Func(c.reconcileVolume)); err != nil {
		return err
	}
	if err := ctrl.NewControllerManagedBy(mgr).
		Named(Name+"-class").
		For(&corev1.Namespace{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return o.GetName() == metav1.NamespaceSystem
		}))).
		Complete(reconcile.Func(c.reconcileClass)); err != nil {
		return err
	}
	return mgr.Add(manager.RunnableFunc(c.sweep))
}

func (c *Controller) reconcileClaim(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var claim corev1.PersistentVolumeClaim
	if err := c.client.Get(ctx, req.NamespacedName, &claim); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	var class storagev1.StorageClass
	if err := c.client.Get(ctx, client.ObjectKey{Name: volumehelpers.GetPersistentVolumeClaimClass(&claim)}, &class); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	pv, refusal := planClaim(&claim, &class, c.cfg.VolumesDir)
	switch {
	case refusal != "":
		c.cfg.Recorder.Event(&claim, corev1.EventTypeWarning, volumeevents.ProvisioningFailed, refusal)
		return reconcile.Result{}, nil
	case pv == nil:
		return reconcile.Result{}, nil
	}
	made, err := c.provision(ctx, pv)
	if err != nil {
		c.cfg.Recorder.Eventf(&claim, corev1.EventTypeWarning, volumeevents.ProvisioningFailed, "provision volume %s: %v", pv.Name, err)
		return reconcile.Result{}, fmt.Errorf("provision volume %s: %w", pv.Name, err)
	}
	if made {
		c.cfg.Recorder.Eventf(&claim, corev1.EventTypeNormal, volumeevents.ProvisioningSucceeded, "Successfully provisioned volume %s", pv.Name)
	}
	return reconcile.Result{}, nil
}

// provision makes the directory, then the object that names it.
func (c *Controller) provision(ctx context.Context, pv *corev1.PersistentVolume) (made bool, err error) {
	c.directories.mu.Lock()
	defer c.directories.mu.Unlock()
	err = c.client.Get(ctx, client.ObjectKeyFromObject(pv), &corev1.PersistentVolume{})
	if err == nil || !apierrors.IsNotFound(err) {
		return false, err
	}
	if err := c.directories.create(pv.Name); err != nil {
		return false, err
	}
	err = c.client.Create(ctx, pv)
	if apierrors.IsAlreadyExists(err) {
		return false, nil // the cache is behind
	}
	return err == nil, err
}

func (c *Controller) reconcileVolume(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var pv corev1.PersistentVolume
	if err := c.client.Get(ctx, req.NamespacedName, &pv); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	s := planVolume(&pv)
	if s.erase {
		if err := c.directories.erase(pv.Name); err != nil {
			c.cfg.Recorder.Event(&pv, corev1.EventTypeWarning, volumeevents.VolumeFailedDelete, err.Error())
			return reconcile.Result{}, fmt.Errorf("erase volume %s: %w", pv.Name, err)
		}
	}
	if s.remove {
		if err := c.client.Delete(ctx, &pv, client.Preconditions{UID: &pv.UID}); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
	}
	if s.release {
		after := pv.DeepCopy()
		after.Finalizers = slices.DeleteFunc(after.Finalizers, func(f string) bool { return f == finalizer })
		err := c.client.Patch(ctx, after, client.MergeFromWithOptions(&pv, client.MergeFromWithOptimisticLock{}))
		if apierrors.IsConflict(err) {
			return reconcile.Result{}, nil // the cache is behind, its next event comes here
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	return reconcile.Result{}, nil
}

// reconcileClass creates the StorageClass of a new cluster, once.
func (c *Controller) reconcileClass(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var system corev1.Namespace
	if err := c.client.Get(ctx, req.NamespacedName, &system); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if _, made := system.Annotations[classMade]; made {
		return reconcile.Result{}, nil
	}
	if err := c.client.Create(ctx, class()); err != nil && !apierrors.IsAlreadyExists(err) {
		return reconcile.Result{}, fmt.Errorf("storage class %s: %w", ClassName, err)
	}
	marked := system.DeepCopy()
	metav1.SetMetaDataAnnotation(&marked.ObjectMeta, classMade, ClassName)
	return reconcile.Result{}, c.client.Patch(ctx, marked, client.MergeFrom(&system))
}

// sweep removes what a crash left. The cluster runs without it.
func (c *Controller) sweep(ctx context.Context) error {
	if err := c.directories.sweep(func(name string) (bool, error) {
		err := c.client.Get(ctx, client.ObjectKey{Name: name}, &corev1.PersistentVolume{})
		return err == nil, client.IgnoreNotFound(err)
	}); err != nil {
		log.FromContext(ctx).Error(err, "volumes of a crash not removed")
	}
	return nil
}
