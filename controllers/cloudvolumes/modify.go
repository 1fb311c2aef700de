package cloudvolumes

import (
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Reasons of events, as external-resizer's.
const (
	reasonModify    = "VolumeModify"
	reasonModified  = "VolumeModifySuccessful"
	reasonNotModify = "VolumeModifyFailed"
)

func (c *Controller) setupModify(mgr ctrl.Manager) error {
	wants := predicate.NewPredicateFuncs(func(o client.Object) bool {
		claim, ok := o.(*corev1.PersistentVolumeClaim)
		return ok && wantsOtherAttributes(claim)
	})
	// What is said here of a failure is no reason to try again at once.
	asked := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		was, wasClaim := e.ObjectOld.(*corev1.PersistentVolumeClaim)
		is, isClaim := e.ObjectNew.(*corev1.PersistentVolumeClaim)
		return wasClaim && isClaim && (was.Status.Phase != is.Status.Phase || !equality.Semantic.DeepEqual(was.Spec, is.Spec))
	}}
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name+"-modifier").
		For(&corev1.PersistentVolumeClaim{}, builder.WithPredicates(wants, asked)).
		Complete(reconcile.Func(c.reconcileAttributes))
}

// wantsOtherAttributes tells whether a claim's volume is to have another
// VolumeAttributesClass than it has. What the driver has called infeasible stays
// so: neither a class nor a driver changes. See KEP-3751.
//
//	(Pending →) InProgress → done | Infeasible
func wantsOtherAttributes(claim *corev1.PersistentVolumeClaim) bool {
	want := ptr.Deref(claim.Spec.VolumeAttributesClassName, "")
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return false
	}
	now := claim.Status.ModifyVolumeStatus
	switch {
	case want == "":
		return slices.ContainsFunc(claim.Status.Conditions, isModifying) // it was taken back
	case now == nil:
		return want != ptr.Deref(claim.Status.CurrentVolumeAttributesClassName, "")
	}
	return now.Status != corev1.PersistentVolumeClaimModifyVolumeInfeasible || now.TargetVolumeAttributesClassName != want
}

func (c *Controller) reconcileAttributes(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	v, err := c.volumeOf(ctx, req, wantsOtherAttributes)
	if err != nil || v == nil || c.specs[v.driver].Attributes == nil {
		return reconcile.Result{}, err
	}
	if err := c.modify(ctx, v); err != nil {
		return reconcile.Result{}, fmt.Errorf("modify volume %s: %w", v.pv.Name, err)
	}
	return reconcile.Result{}, nil
}

// modify gives the volume the attributes, then the objects the class's name.
func (c *Controller) modify(ctx context.Context, v *boundVolume) error {
	claim, pv := v.claim, v.pv
	want := ptr.Deref(claim.Spec.VolumeAttributesClassName, "")
	if want == "" {
		return c.setModifying(ctx, claim, claim.Status.ModifyVolumeStatus, slices.DeleteFunc(slices.Clone(claim.Status.Conditions), isModifying)...)
	}
	parameters, err := c.attributes(ctx, want, v.driver)
	if apierrors.IsNotFound(err) {
		c.cfg.Recorder.Eventf(claim, corev1.EventTypeWarning, reasonNotModify, "VAC %q does not exist.", want)
		pending := &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: want, Status: corev1.PersistentVolumeClaimModifyVolumePending}
		if setErr := c.setModifying(ctx, claim, pending, claim.Status.Conditions...); setErr != nil {
			return setErr
		}
		return err
	}
	target := &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: want, Status: corev1.PersistentVolumeClaimModifyVolumeInProgress}
	if err == nil {
		c.cfg.Recorder.Eventf(claim, corev1.EventTypeNormal, reasonModify, "external resizer is modifying volume %s with vac %s", claim.Name, want)
		if err := c.setModifying(ctx, claim, target, modifying("Modifying volume to %q is in progress.", want)); err != nil {
			return err
		}
		err = c.callModify(ctx, v.server, pv, parameters)
	}
	if err != nil {
		return c.notModified(ctx, claim, target, err)
	}
	updated := pv.DeepCopy()
	updated.Spec.VolumeAttributesClassName = &want
	if err := c.client.Patch(ctx, updated, client.MergeFrom(pv)); err != nil {
		return err
	}
	claim.Status.CurrentVolumeAttributesClassName = &want
	if err := c.setModifying(ctx, claim, nil); err != nil {
		return err
	}
	c.cfg.Recorder.Eventf(claim, corev1.EventTypeNormal, reasonModified, "external resizer modified volume %s with vac %s successfully", claim.Name, want)
	return nil
}

// callModify asks the driver. What the objects could not say afterwards it is
// not asked.
func (c *Controller) callModify(ctx context.Context, server csi.ControllerServer, pv *corev1.PersistentVolume, parameters map[string]string) error {
	if pv.Spec.CSI == nil {
		return status.Errorf(codes.InvalidArgument, "volume %s has the form of its in-tree class, which cannot have a VolumeAttributesClass", pv.Name)
	}
	_, err := server.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
		VolumeId: pv.Spec.CSI.VolumeHandle, MutableParameters: parameters,
	})
	return err
}

// notModified tells of an error; the claim is tried again unless that is of no
// use.
func (c *Controller) notModified(ctx context.Context, claim *corev1.PersistentVolumeClaim, target *corev1.ModifyVolumeStatus, cause error) error {
	c.cfg.Recorder.Event(claim, corev1.EventTypeWarning, reasonNotModify, cause.Error())
	if final(cause) {
		target.Status = corev1.PersistentVolumeClaimModifyVolumeInfeasible
	}
	problem := corev1.PersistentVolumeClaimCondition{
		Type: corev1.PersistentVolumeClaimVolumeModifyVolumeError, Status: corev1.ConditionTrue, LastProbeTime: metav1.Now(),
		Reason: status.Code(cause).String(), Message: status.Convert(cause).Message(),
	}
	err := c.setModifying(ctx, claim, target,
		modifying("Modifying volume to %q failed. Waiting for retry.", target.TargetVolumeAttributesClassName), problem)
	if err != nil || final(cause) {
		return err
	}
	return cause
}

// attributes are the parameters of a VolumeAttributesClass of the driver's.
func (c *Controller) attributes(ctx context.Context, name, driver string) (map[string]string, error) {
	class, err := c.cfg.Client.StorageV1().VolumeAttributesClasses().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if class.DriverName != driver {
		return nil, status.Errorf(codes.InvalidArgument, "VolumeAttributesClass %s is of driver %s, and the volume of %s", name, class.DriverName, driver)
	}
	return class.Parameters, nil
}

// setModifying writes how far a claim's modification is; conditions replace
// those of the last one.
func (c *Controller) setModifying(ctx context.Context, claim *corev1.PersistentVolumeClaim, now *corev1.ModifyVolumeStatus, conditions ...corev1.PersistentVolumeClaimCondition) error {
	updated := claim.DeepCopy()
	updated.Status.ModifyVolumeStatus = now
	others := slices.DeleteFunc(updated.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return isModifying(c) || c.Type == corev1.PersistentVolumeClaimVolumeModifyVolumeError
	})
	for _, condition := range conditions {
		if !slices.ContainsFunc(others, func(c corev1.PersistentVolumeClaimCondition) bool { return c.Type == condition.Type }) {
			others = append(others, condition)
		}
	}
	updated.Status.Conditions = others
	if err := c.client.Status().Update(ctx, updated); err != nil {
		return err
	}
	updated.DeepCopyInto(claim)
	return nil
}

func modifying(format, class string) corev1.PersistentVolumeClaimCondition {
	return corev1.PersistentVolumeClaimCondition{
		Type: corev1.PersistentVolumeClaimVolumeModifyingVolume, Status: corev1.ConditionTrue,
		LastProbeTime: metav1.Now(), Message: fmt.Sprintf(format, class),
	}
}

func isModifying(c corev1.PersistentVolumeClaimCondition) bool {
	return c.Type == corev1.PersistentVolumeClaimVolumeModifyingVolume
}
