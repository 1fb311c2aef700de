package cloudvolumes

import (
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	volumeevents "k8s.io/kubernetes/pkg/controller/volume/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func (c *Controller) setupReclaim(mgr ctrl.Manager) error {
	// A volume is not deleted before it is detached.
	detached := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		a, ok := o.(*storagev1.VolumeAttachment)
		if !ok || a.Spec.Source.PersistentVolumeName == nil || c.cfg.Drivers[a.Spec.Attacher] == nil {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: *a.Spec.Source.PersistentVolumeName}}}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name+"-reclaim").
		For(&corev1.PersistentVolume{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			pv, ok := o.(*corev1.PersistentVolume)
			return ok && c.cfg.Drivers[c.driverOf(pv)] != nil && planVolume(pv) != step{}
		}))).
		Watches(&storagev1.VolumeAttachment{}, detached).
		Complete(reconcile.Func(c.reconcileVolume))
}

// step is what to do with a PersistentVolume.
type step struct {
	// erase deletes the volume.
	erase bool
	// release takes our finalizer off.
	release bool
	// remove deletes the object.
	remove bool
}

// planVolume decides about a PersistentVolume that was provisioned.
//
//	Bound ─ claim deleted → Released ─ policy Delete → erased → object deleted
//	                                 └ policy Retain → stays; deleted by its owner, the volume stays
func planVolume(pv *corev1.PersistentVolume) step {
	if pv.Annotations[volumehelpers.AnnDynamicallyProvisioned] == "" {
		return step{}
	}
	deleted, held := pv.DeletionTimestamp != nil, slices.Contains(pv.Finalizers, finalizer)
	switch {
	case pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		return step{release: deleted && held}
	case deleted && !held, pv.Status.Phase == corev1.VolumeBound, pv.Status.Phase == corev1.VolumePending && !deleted:
		return step{}
	case pv.Status.Phase == corev1.VolumeReleased, pv.Status.Phase == corev1.VolumeFailed:
		return step{erase: true, release: held, remove: !deleted}
	case deleted:
		// Never bound, and its owner deletes it.
		return step{erase: true, release: true}
	}
	return step{}
}

func (c *Controller) reconcileVolume(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var pv corev1.PersistentVolume
	if err := c.client.Get(ctx, req.NamespacedName, &pv); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	s := planVolume(&pv)
	server, err := c.serves(ctx, c.driverOf(&pv))
	if err != nil || server == nil || s == (step{}) {
		return reconcile.Result{}, err
	}
	if s.erase {
		attached, err := c.attached(ctx, pv.Name)
		if err != nil || attached {
			return reconcile.Result{}, err // its deletion comes here
		}
		if err := c.erase(ctx, server, &pv); err != nil {
			c.cfg.Recorder.Event(&pv, corev1.EventTypeWarning, volumeevents.VolumeFailedDelete, err.Error())
			return reconcile.Result{}, fmt.Errorf("delete volume %s: %w", pv.Name, err)
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

func (c *Controller) erase(ctx context.Context, server csi.ControllerServer, pv *corev1.PersistentVolume) error {
	volume, err := c.asCSI(ctx, pv)
	if err != nil {
		return err
	}
	_, err = server.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: volume.Spec.CSI.VolumeHandle})
	return err
}

// attached tells whether a node has the volume.
func (c *Controller) attached(ctx context.Context, volume string) (bool, error) {
	var attachments storagev1.VolumeAttachmentList
	if err := c.client.List(ctx, &attachments); err != nil {
		return false, err
	}
	return slices.ContainsFunc(attachments.Items, func(a storagev1.VolumeAttachment) bool {
		return a.Spec.Source.PersistentVolumeName != nil && *a.Spec.Source.PersistentVolumeName == volume
	}), nil
}
