package controllers

import (
	"context"

	"k8s.io/client-go/kubernetes"
	csitranslation "k8s.io/csi-translation-lib"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller/volume/attachdetach"
	"k8s.io/kubernetes/pkg/controller/volume/expand"
	"k8s.io/kubernetes/pkg/controller/volume/persistentvolume"
	persistentvolumeconfig "k8s.io/kubernetes/pkg/controller/volume/persistentvolume/config"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/csimigration"
)

// Upstream's controllers of volumes have their plugins from a list that is
// compiled in. Here ours come after it.

// withOurs are a controller's client and plugins: upstream's list of them, and
// those of ours that can do what the controller asks of them.
func (u *upstream) withOurs(ctx context.Context, name string, list func(klog.Logger, persistentvolumeconfig.VolumeConfiguration) ([]volume.VolumePlugin, error), can func(volume.VolumePlugin) bool) (kubernetes.Interface, []volume.VolumePlugin, error) {
	plugins, err := list(klog.FromContext(ctx), u.context.ComponentConfig.PersistentVolumeBinderController.VolumeConfiguration)
	if err != nil {
		return nil, nil, err
	}
	ours, err := u.volumePlugins()
	if err != nil {
		return nil, nil, err
	}
	for _, p := range ours {
		if can(p) {
			plugins = append(plugins, p)
		}
	}
	client, err := u.context.NewClient(name)
	return client, plugins, err
}

// is tells whether a plugin has an interface.
func is[T any](p volume.VolumePlugin) bool {
	_, ok := p.(T)
	return ok
}

// attachDetach is upstream's controller without the prober of FlexVolume
// drivers: a machine has no directory for them, and the prober would make one.
func (u *upstream) attachDetach(ctx context.Context) (app.Controller, error) {
	component := u.context.ComponentConfig
	client, plugins, err := u.withOurs(ctx, "attachdetach-controller", app.ProbeAttachableVolumePlugins, is[volume.AttachableVolumePlugin])
	if err != nil {
		return nil, err
	}
	core, storage := u.context.InformerFactory.Core().V1(), u.context.InformerFactory.Storage().V1()
	controller, err := attachdetach.NewAttachDetachController(ctx, client,
		core.Pods(), core.Nodes(), core.PersistentVolumeClaims(), core.PersistentVolumes(),
		storage.CSINodes(), storage.CSIDrivers(), storage.VolumeAttachments(),
		plugins, nil,
		component.AttachDetachController.DisableAttachDetachReconcilerSync,
		component.AttachDetachController.ReconcilerSyncLoopPeriod.Duration,
		component.AttachDetachController.DisableForceDetachOnTimeout,
		attachdetach.DefaultTimerConfig)
	if err != nil {
		return nil, err
	}
	return loop{names.PersistentVolumeAttachDetachController, controller.Run}, nil
}

// volumeBinder is upstream's controller of claims and PersistentVolumes.
func (u *upstream) volumeBinder(ctx context.Context) (app.Controller, error) {
	client, plugins, err := u.withOurs(ctx, "persistent-volume-binder", app.ProbeProvisionableRecyclableVolumePlugins, is[volume.ProvisionableVolumePlugin])
	if err != nil {
		return nil, err
	}
	core, config := u.context.InformerFactory.Core().V1(), u.context.ComponentConfig.PersistentVolumeBinderController
	controller, err := persistentvolume.NewController(ctx, persistentvolume.ControllerParameters{
		KubeClient: client, SyncPeriod: config.PVClaimBinderSyncPeriod.Duration, VolumePlugins: plugins,
		VolumeInformer: core.PersistentVolumes(), ClaimInformer: core.PersistentVolumeClaims(),
		ClassInformer: u.context.InformerFactory.Storage().V1().StorageClasses(),
		PodInformer:   core.Pods(), NodeInformer: core.Nodes(),
		EnableDynamicProvisioning: config.VolumeConfiguration.EnableDynamicProvisioning,
	})
	if err != nil {
		return nil, err
	}
	return loop{names.PersistentVolumeBinderController, controller.Run}, nil
}

// volumeExpander is upstream's controller of claims that grow.
func (u *upstream) volumeExpander(ctx context.Context) (app.Controller, error) {
	client, plugins, err := u.withOurs(ctx, "expand-controller", app.ProbeExpandableVolumePlugins, is[volume.ExpandableVolumePlugin])
	if err != nil {
		return nil, err
	}
	translator := csitranslation.New()
	controller, err := expand.NewExpandController(ctx, client, u.context.InformerFactory.Core().V1().PersistentVolumeClaims(),
		plugins, translator, csimigration.NewPluginManager(translator))
	if err != nil {
		return nil, err
	}
	return loop{names.PersistentVolumeExpanderController, controller.Run}, nil
}
