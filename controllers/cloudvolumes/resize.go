package cloudvolumes

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func (c *Controller) setupResize(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name+"-resizer").
		For(&corev1.PersistentVolumeClaim{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			claim, ok := o.(*corev1.PersistentVolumeClaim)
			return ok && wantsMore(claim)
		}))).
		Complete(reconcile.Func(c.reconcileSize))
}

// wantsMore tells whether a claim's volume is to grow, and the cloud's part of
// that is not done yet.
//
//	ControllerResizeInProgress → NodeResizePending → (kubelet) NodeResizeInProgress → done
func wantsMore(claim *corev1.PersistentVolumeClaim) bool {
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return false
	}
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if want.Cmp(have) <= 0 {
		return false
	}
	switch claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] {
	case corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress:
		allocated := claim.Status.AllocatedResources[corev1.ResourceStorage]
		return want.Cmp(allocated) > 0
	}
	return true
}

func (c *Controller) reconcileSize(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	v, err := c.volumeOf(ctx, req, wantsMore)
	if err != nil || v == nil {
		return reconcile.Result{}, err
	}
	if err := c.resize(ctx, v); err != nil {
		return reconcile.Result{}, fmt.Errorf("resize volume %s: %w", v.pv.Name, err)
	}
	return reconcile.Result{}, nil
}

// resize grows the volume, then the objects, and leaves the rest to the node.
func (c *Controller) resize(ctx context.Context, v *boundVolume) error {
	claim, pv, driver := v.claim, v.pv, v.driver
	volume, err := c.asCSI(ctx, pv)
	if err != nil {
		return err
	}
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	c.cfg.Recorder.Eventf(claim, corev1.EventTypeNormal, "Resizing", "External resizer is resizing volume %s", pv.Name)
	claim, err = volumeutil.MarkControllerReisizeInProgress(claim, driver, want, c.cfg.Client)
	if err != nil {
		return err
	}
	resp, err := v.server.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: volume.Spec.CSI.VolumeHandle, CapacityRange: &csi.CapacityRange{RequiredBytes: want.Value()},
	})
	if err != nil {
		c.cfg.Recorder.Eventf(claim, corev1.EventTypeWarning, "VolumeResizeFailed", "resize volume %q by resizer %q failed: %v", pv.Name, driver, err)
		return err
	}
	got := *resource.NewQuantity(resp.GetCapacityBytes(), resource.BinarySI)
	if have := pv.Spec.Capacity[corev1.ResourceStorage]; got.Cmp(have) > 0 {
		if _, err := volumeutil.UpdatePVSize(pv, got, c.cfg.Client); err != nil {
			return err
		}
	}
	if resp.GetNodeExpansionRequired() {
		if _, err := volumeutil.MarkForFSResize(claim, c.cfg.Client); err != nil {
			return err
		}
		c.cfg.Recorder.Event(claim, corev1.EventTypeNormal, "FileSystemResizeRequired", "Require file system resize of volume on node")
		return nil
	}
	if _, err := volumeutil.MarkResizeFinished(claim, got, c.cfg.Client); err != nil {
		return err
	}
	c.cfg.Recorder.Event(claim, corev1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
	return nil
}
