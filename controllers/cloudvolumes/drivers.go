package cloudvolumes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func (c *Controller) setupDrivers(mgr ctrl.Manager) error {
	users := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		var requests []reconcile.Request
		for _, driver := range c.driversOf(o) {
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Name: driver}})
		}
		return requests
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name+"-drivers").
		For(&storagev1.CSIDriver{}).
		Watches(&storagev1.StorageClass{}, users).
		Watches(&corev1.PersistentVolume{}, users).
		Watches(&corev1.Pod{}, users).
		Complete(reconcile.Func(c.reconcileDriver))
}

// driversOf are the drivers of ours that an object needs.
func (c *Controller) driversOf(o client.Object) []string {
	var names []string
	add := func(driver string) {
		if c.cfg.Drivers[driver] != nil {
			names = append(names, driver)
		}
	}
	switch o := o.(type) {
	case *storagev1.StorageClass:
		add(c.driverName(o.Provisioner))
	case *corev1.PersistentVolume:
		add(c.driverOf(o))
	case *corev1.Pod:
		for i := range o.Spec.Volumes {
			if plugin, err := c.translator.GetInTreePluginNameFromSpec(nil, &o.Spec.Volumes[i]); err == nil && plugin != "" {
				add(c.driverName(plugin))
			}
		}
	}
	return names
}

// reconcileDriver creates the CSIDriver of a driver that is needed.
func (c *Controller) reconcileDriver(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	spec, ours := c.specs[req.Name]
	if !ours {
		return reconcile.Result{}, nil
	}
	err := c.client.Get(ctx, req.NamespacedName, &storagev1.CSIDriver{})
	if err == nil || !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	needed, err := c.needed(ctx, req.Name)
	if err != nil || !needed {
		return reconcile.Result{}, err
	}
	if err := c.client.Create(ctx, csiDriver(spec)); err != nil && !apierrors.IsAlreadyExists(err) {
		return reconcile.Result{}, fmt.Errorf("create CSIDriver %s: %w", req.Name, err)
	}
	return reconcile.Result{}, nil
}

// needed tells whether an object of the cluster names the driver.
func (c *Controller) needed(ctx context.Context, driver string) (bool, error) {
	for _, list := range []client.ObjectList{&storagev1.StorageClassList{}, &corev1.PersistentVolumeList{}, &corev1.PodList{}} {
		if err := c.client.List(ctx, list); err != nil {
			return false, err
		}
		var objects []client.Object
		switch l := list.(type) {
		case *storagev1.StorageClassList:
			objects = pointers[storagev1.StorageClass](l.Items)
		case *corev1.PersistentVolumeList:
			objects = pointers[corev1.PersistentVolume](l.Items)
		case *corev1.PodList:
			objects = pointers[corev1.Pod](l.Items)
		}
		for _, o := range objects {
			for _, d := range c.driversOf(o) {
				if d == driver {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// pointers are the objects of a list.
func pointers[T any, P interface {
	*T
	client.Object
}](items []T) []client.Object {
	var objects []client.Object
	for i := range items {
		objects = append(objects, P(&items[i]))
	}
	return objects
}

// csiDriver is the object with which a cloud installs its driver.
func csiDriver(spec machinev1alpha1.CloudDriver) *storagev1.CSIDriver {
	return &storagev1.CSIDriver{
		ObjectMeta: metav1.ObjectMeta{Name: spec.Name, Labels: map[string]string{machinev1alpha1.CloudMark: "true"}},
		Spec: storagev1.CSIDriverSpec{
			AttachRequired:       ptr.To(!spec.Shared),
			PodInfoOnMount:       ptr.To(spec.PodInfo),
			FSGroupPolicy:        ptr.To(storagev1.FSGroupPolicy(spec.FSGroupPolicy)),
			VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent},
		},
	}
}
