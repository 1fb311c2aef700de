package cloudvolumes

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// What a VolumeAttachment keeps for its end, when the node and the volume may
// be gone. The first one is upstream's.
const (
	annNodeID = "csi.alpha.kubernetes.io/node-id"
	annHandle = "skiff.cluster/volume-handle"
)

func (c *Controller) setupAttach(mgr ctrl.Manager) error {
	ours := predicate.NewPredicateFuncs(func(o client.Object) bool {
		a, ok := o.(*storagev1.VolumeAttachment)
		return ok && c.cfg.Drivers[a.Spec.Attacher] != nil && (!a.Status.Attached || a.DeletionTimestamp != nil)
	})
	registered := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		var all storagev1.VolumeAttachmentList
		if err := c.client.List(ctx, &all); err != nil {
			return nil // the cache has stopped
		}
		var requests []reconcile.Request
		for i := range all.Items {
			if a := &all.Items[i]; a.Spec.NodeName == o.GetName() && c.cfg.Drivers[a.Spec.Attacher] != nil {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(a)})
			}
		}
		return requests
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name+"-attacher").
		For(&storagev1.VolumeAttachment{}, builder.WithPredicates(ours)).
		Watches(&storagev1.CSINode{}, registered).
		Complete(reconcile.Func(c.reconcileAttachment))
}

// attachFinalizer is the one of external-attacher.
func attachFinalizer(driver string) string {
	return "external-attacher/" + strings.ReplaceAll(driver, ".", "-")
}

func (c *Controller) reconcileAttachment(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var a storagev1.VolumeAttachment
	if err := c.client.Get(ctx, req.NamespacedName, &a); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	server, err := c.serves(ctx, a.Spec.Attacher)
	if err != nil || server == nil {
		return reconcile.Result{}, err
	}
	switch held := slices.Contains(a.Finalizers, attachFinalizer(a.Spec.Attacher)); {
	case a.DeletionTimestamp != nil && held:
		err = c.detach(ctx, server, &a)
	case a.DeletionTimestamp == nil && !a.Status.Attached:
		err = c.attach(ctx, server, &a)
	}
	if apierrors.IsConflict(err) {
		return reconcile.Result{}, nil // the cache is behind, its next event comes here
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("attachment %s of node %s: %w", a.Name, a.Spec.NodeName, err)
	}
	return reconcile.Result{}, nil
}

// attach gives the volume to the node. It does nothing while the driver is not
// registered there.
func (c *Controller) attach(ctx context.Context, server csi.ControllerServer, a *storagev1.VolumeAttachment) error {
	var node storagev1.CSINode
	if err := c.client.Get(ctx, client.ObjectKey{Name: a.Spec.NodeName}, &node); err != nil {
		return client.IgnoreNotFound(err)
	}
	registered := registration(&node, a.Spec.Attacher)
	if registered == nil {
		return nil
	}
	volume, err := c.attachmentVolume(ctx, a)
	if err == nil {
		var held *storagev1.VolumeAttachment
		if held, err = c.hold(ctx, a, registered.NodeID, volume.CSI.VolumeHandle); err != nil {
			return client.IgnoreNotFound(err)
		}
		a = held
		_, err = server.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
			VolumeId: volume.CSI.VolumeHandle, NodeId: registered.NodeID, Readonly: volume.CSI.ReadOnly,
			VolumeContext:    volume.CSI.VolumeAttributes,
			VolumeCapability: capability(volume.VolumeMode, volume.AccessModes, volume.CSI.FSType, volume.MountOptions),
		})
	}
	after := a.DeepCopy()
	after.Status.Attached, after.Status.AttachError = err == nil, c.statusError(err)
	patch := c.client.Status().Patch(ctx, after, client.MergeFrom(a))
	if err != nil {
		return err
	}
	return client.IgnoreNotFound(patch)
}

// hold keeps the attachment until it is detached again.
func (c *Controller) hold(ctx context.Context, a *storagev1.VolumeAttachment, nodeID, handle string) (*storagev1.VolumeAttachment, error) {
	f := attachFinalizer(a.Spec.Attacher)
	if slices.Contains(a.Finalizers, f) && a.Annotations[annNodeID] == nodeID && a.Annotations[annHandle] == handle {
		return a, nil
	}
	after := a.DeepCopy()
	if !slices.Contains(after.Finalizers, f) {
		after.Finalizers = append(after.Finalizers, f)
	}
	metav1.SetMetaDataAnnotation(&after.ObjectMeta, annNodeID, nodeID)
	metav1.SetMetaDataAnnotation(&after.ObjectMeta, annHandle, handle)
	return after, c.client.Patch(ctx, after, client.MergeFromWithOptions(a, client.MergeFromWithOptimisticLock{}))
}

// detach takes the volume from the node and lets the attachment go.
func (c *Controller) detach(ctx context.Context, server csi.ControllerServer, a *storagev1.VolumeAttachment) error {
	_, err := server.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{
		VolumeId: a.Annotations[annHandle], NodeId: a.Annotations[annNodeID],
	})
	if err != nil {
		after := a.DeepCopy()
		after.Status.DetachError = c.statusError(err)
		if patch := c.client.Status().Patch(ctx, after, client.MergeFrom(a)); client.IgnoreNotFound(patch) != nil {
			return patch
		}
		return err
	}
	after := a.DeepCopy()
	after.Finalizers = slices.DeleteFunc(after.Finalizers, func(f string) bool { return f == attachFinalizer(a.Spec.Attacher) })
	return client.IgnoreNotFound(c.client.Patch(ctx, after, client.MergeFromWithOptions(a, client.MergeFromWithOptimisticLock{})))
}

func (c *Controller) statusError(err error) *storagev1.VolumeError {
	if err == nil {
		return nil
	}
	return &storagev1.VolumeError{
		Time: metav1.NewTime(c.cfg.Clock.Now()), Message: err.Error(), ErrorCode: ptr.To(int32(status.Code(err))),
	}
}

// attachmentVolume is the volume of an attachment as its driver sees it.
func (c *Controller) attachmentVolume(ctx context.Context, a *storagev1.VolumeAttachment) (*corev1.PersistentVolumeSpec, error) {
	if inline := a.Spec.Source.InlineVolumeSpec; inline != nil {
		if inline.CSI == nil {
			return nil, fmt.Errorf("inlineVolumeSpec is not a CSI volume")
		}
		return inline, nil
	}
	var pv corev1.PersistentVolume
	if err := c.client.Get(ctx, client.ObjectKey{Name: ptr.Deref(a.Spec.Source.PersistentVolumeName, "")}, &pv); err != nil {
		return nil, err
	}
	volume, err := c.asCSI(ctx, &pv)
	if err != nil {
		return nil, err
	}
	if volume == nil {
		return nil, fmt.Errorf("PersistentVolume %s is not a volume of %s", pv.Name, a.Spec.Attacher)
	}
	return &volume.Spec, nil
}
