package cloudvolumes

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/klog/v2"
	volumeevents "k8s.io/kubernetes/pkg/controller/volume/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func (c *Controller) setupProvision(mgr ctrl.Manager) error {
	// A driver's registration at a node is what claims may wait for.
	waiting := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request {
		var claims corev1.PersistentVolumeClaimList
		if err := c.client.List(ctx, &claims); err != nil {
			return nil // the cache has stopped
		}
		var requests []reconcile.Request
		for i := range claims.Items {
			if c.asks(&claims.Items[i]) {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&claims.Items[i])})
			}
		}
		return requests
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name+"-provisioner").
		For(&corev1.PersistentVolumeClaim{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			claim, ok := o.(*corev1.PersistentVolumeClaim)
			return ok && c.asks(claim)
		}))).
		Watches(&storagev1.CSINode{}, waiting).
		Watches(&storagev1.CSIDriver{}, waiting).
		Complete(reconcile.Func(c.reconcileClaim))
}

// asks tells whether the binder wants a volume of a driver of ours.
func (c *Controller) asks(claim *corev1.PersistentVolumeClaim) bool {
	return c.cfg.Drivers[claim.Annotations[volumehelpers.AnnStorageProvisioner]] != nil &&
		claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
}

func (c *Controller) reconcileClaim(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var claim corev1.PersistentVolumeClaim
	if err := c.client.Get(ctx, req.NamespacedName, &claim); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !c.asks(&claim) {
		return reconcile.Result{}, nil
	}
	driver := claim.Annotations[volumehelpers.AnnStorageProvisioner]
	server, err := c.serves(ctx, driver)
	if err != nil || server == nil {
		return reconcile.Result{}, err
	}
	var class storagev1.StorageClass
	if err := c.client.Get(ctx, client.ObjectKey{Name: volumehelpers.GetPersistentVolumeClaimClass(&claim)}, &class); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if c.driverName(class.Provisioner) != driver || tooEarly(&claim, &class) {
		return reconcile.Result{}, nil
	}
	if populated(&claim) {
		c.cfg.Recorder.Event(&claim, corev1.EventTypeNormal, "Provisioning", "Assuming an external populator will provision the volume")
		return reconcile.Result{}, nil
	}
	made, err := c.provision(ctx, server, &claim, &class)
	switch {
	case err != nil:
		c.cfg.Recorder.Eventf(&claim, corev1.EventTypeWarning, volumeevents.ProvisioningFailed, "failed to provision volume with StorageClass %q: %v", class.Name, err)
		if final(err) {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, fmt.Errorf("provision volume %s: %w", volumeName(&claim), err)
	case made:
		c.cfg.Recorder.Eventf(&claim, corev1.EventTypeNormal, volumeevents.ProvisioningSucceeded, "Successfully provisioned volume %s", volumeName(&claim))
	}
	return reconcile.Result{}, nil
}

func tooEarly(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) bool {
	return ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer &&
		claim.Annotations[volumehelpers.AnnSelectedNode] == ""
}

// populated tells whether the volume's contents are of a kind that somebody
// else knows, who then makes the volume: a volume populator, see KEP-1495.
func populated(claim *corev1.PersistentVolumeClaim) bool {
	from := claim.Spec.DataSourceRef
	return from != nil && !isClaim(from) && !isSnapshot(from)
}

func isClaim(from *corev1.TypedObjectReference) bool {
	return ptr.Deref(from.APIGroup, "") == "" && from.Kind == claimKind
}

func isSnapshot(from *corev1.TypedObjectReference) bool {
	return ptr.Deref(from.APIGroup, "") == snapshotv1.GroupName && from.Kind == snapshotKind
}

// final tells whether asking again is of no use until the claim changes.
func final(err error) bool { return status.Code(err) == codes.InvalidArgument }

// provision makes the volume and then the object that names it. It does
// nothing while something that it needs is not there yet.
func (c *Controller) provision(ctx context.Context, server csi.ControllerServer, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (made bool, err error) {
	err = c.client.Get(ctx, client.ObjectKey{Name: volumeName(claim)}, &corev1.PersistentVolume{})
	if err == nil || !apierrors.IsNotFound(err) {
		return false, err
	}
	spec := c.specs[c.driverName(class.Provisioner)]
	if claim.Spec.Selector != nil {
		return false, status.Error(codes.InvalidArgument, "claim Selector is not supported")
	}
	parameters, err := c.translateClass(ctx, class)
	if err != nil {
		return false, status.Error(codes.InvalidArgument, err.Error())
	}
	zones, wait, err := c.zonesFor(ctx, claim, parameters, spec)
	if err != nil || wait {
		return false, err
	}
	source, err := c.contentSource(ctx, claim, spec.Name)
	if err != nil {
		return false, err
	}
	request := volumeRequest(claim, parameters, spec, zones, source)
	attributes := ptr.Deref(claim.Spec.VolumeAttributesClassName, "")
	if attributes != "" {
		if request.MutableParameters, err = c.attributes(ctx, attributes, spec.Name); err != nil {
			return false, err
		}
	}
	resp, err := server.CreateVolume(ctx, request)
	if err != nil {
		return false, err
	}
	pv, err := c.asClassHasIt(ctx, newVolume(claim, parameters, spec, resp.GetVolume()), class)
	if err != nil {
		return false, err
	}
	if err := c.ensureShareSecret(ctx, pv, claim.Namespace); err != nil {
		return false, err
	}
	err = c.client.Create(ctx, pv)
	if apierrors.IsAlreadyExists(err) {
		return false, nil // the cache is behind
	}
	return err == nil, err
}

// translateClass is the class for the CSI driver, under its own name of the
// provisioner.
func (c *Controller) translateClass(ctx context.Context, class *storagev1.StorageClass) (*storagev1.StorageClass, error) {
	if !c.translator.IsMigratableIntreePluginByName(class.Provisioner) {
		return class, nil
	}
	translated, err := c.translator.TranslateInTreeStorageClassToCSI(klog.FromContext(ctx), class.Provisioner, class.DeepCopy())
	if err != nil {
		return nil, fmt.Errorf("StorageClass %s: %w", class.Name, err)
	}
	translated.Provisioner = c.driverName(class.Provisioner)
	return translated, nil
}

// zonesFor says in which zones the claim's volume may be.
func (c *Controller) zonesFor(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, spec machinev1alpha1.CloudDriver) (order []string, wait bool, err error) {
	if spec.ZoneKey == "" {
		return nil, false, nil
	}
	var nodes corev1.NodeList
	var csiNodes storagev1.CSINodeList
	if err := c.client.List(ctx, &nodes); err != nil {
		return nil, false, err
	}
	if err := c.client.List(ctx, &csiNodes); err != nil {
		return nil, false, err
	}
	zones := nodeZones(nodes.Items, csiNodes.Items, spec.Name, spec.ZoneKey)
	order, wait, refusal := planZone(zones, allowedZones(class.AllowedTopologies, spec.ZoneKey),
		claim.Annotations[volumehelpers.AnnSelectedNode], claim.Name)
	if refusal != "" {
		return nil, false, status.Error(codes.InvalidArgument, refusal)
	}
	return order, wait, nil
}

// contentSource is what a claim's volume that nobody else populates begins as.
func (c *Controller) contentSource(ctx context.Context, claim *corev1.PersistentVolumeClaim, driver string) (*csi.VolumeContentSource, error) {
	from := claim.Spec.DataSourceRef // the API server has dataSource in here too
	switch {
	case from == nil:
		return nil, nil
	case ptr.Deref(from.Namespace, claim.Namespace) != claim.Namespace:
		return nil, status.Error(codes.InvalidArgument, "dataSourceRef.namespace: only sources of the claim's own namespace are supported")
	case isSnapshot(from):
		return c.snapshotSource(ctx, claim, from.Name, driver)
	}
	var source corev1.PersistentVolumeClaim
	if err := c.client.Get(ctx, client.ObjectKey{Namespace: claim.Namespace, Name: from.Name}, &source); err != nil {
		return nil, err
	}
	if source.Spec.VolumeName == "" {
		return nil, fmt.Errorf("dataSource: claim %s is not bound", source.Name)
	}
	var pv corev1.PersistentVolume
	if err := c.client.Get(ctx, client.ObjectKey{Name: source.Spec.VolumeName}, &pv); err != nil {
		return nil, err
	}
	volume, err := c.asCSI(ctx, &pv)
	if err != nil {
		return nil, err
	}
	if volume == nil || volume.Spec.CSI.Driver != driver {
		return nil, status.Errorf(codes.InvalidArgument, "dataSource: claim %s has a volume of another driver", source.Name)
	}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volume.Spec.CSI.VolumeHandle},
	}}, nil
}

// asClassHasIt is the volume in the form of the class that asked for it:
// in-tree for an in-tree class, as external-provisioner leaves it. Where
// upstream derives a region from the zone's name that no node has, or cannot
// derive one, the volume keeps CSI's form: nothing could be scheduled to it. So
// does one with a VolumeAttributesClass, which no other form may have.
func (c *Controller) asClassHasIt(ctx context.Context, pv *corev1.PersistentVolume, class *storagev1.StorageClass) (*corev1.PersistentVolume, error) {
	if !c.translator.IsMigratableIntreePluginByName(class.Provisioner) || pv.Spec.VolumeAttributesClassName != nil {
		return pv, nil
	}
	inTree, err := c.translator.TranslateCSIPVToInTree(pv.DeepCopy())
	if err != nil {
		return pv, nil
	}
	inTree.Annotations[volumehelpers.AnnDynamicallyProvisioned] = class.Provisioner
	inTree.Annotations[volumehelpers.AnnMigratedTo] = c.driverName(class.Provisioner)
	if inTree.Spec.NodeAffinity == nil {
		return inTree, nil
	}
	var nodes corev1.NodeList
	if err := c.client.List(ctx, &nodes); err != nil {
		return nil, err
	}
	for i := range nodes.Items {
		if volumehelpers.CheckNodeAffinity(inTree, labels.Set(nodes.Items[i].Labels)) == nil {
			return inTree, nil
		}
	}
	return pv, nil
}
