package cloudvolumes

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	csitranslation "k8s.io/csi-translation-lib"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// Name is the controller's.
const Name = "cloud-volumes"

// Config is what the controllers work with.
type Config struct {
	// Drivers are the controller services of the drivers that are emulated,
	// by name.
	Drivers map[string]csi.ControllerServer
	Client  kubernetes.Interface
	// Snapshots reads snapshots that claims name.
	Snapshots snapshots.Interface
	Recorder  record.EventRecorder
	Clock     clock.Clock
}

// Controller runs them.
type Controller struct {
	cfg        Config
	client     client.Client
	specs      map[string]machinev1alpha1.CloudDriver
	translator csitranslation.CSITranslator
}

// New makes the controllers; it touches nothing.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, specs: map[string]machinev1alpha1.CloudDriver{}, translator: csitranslation.New()}
	for _, spec := range machinev1alpha1.CloudDrivers() {
		if cfg.Drivers[spec.Name] != nil {
			c.specs[spec.Name] = spec
		}
	}
	return c
}

// SetupWithManager registers them. Without drivers there is nothing to do.
func (c *Controller) SetupWithManager(mgr ctrl.Manager) error {
	if len(c.specs) == 0 {
		return nil
	}
	c.client = mgr.GetClient()
	for _, setup := range []func(ctrl.Manager) error{
		c.setupDrivers, c.setupProvision, c.setupReclaim, c.setupAttach, c.setupResize, c.setupModify,
	} {
		if err := setup(mgr); err != nil {
			return err
		}
	}
	return nil
}

// serves returns the controller service of a driver that exists and is ours.
func (c *Controller) serves(ctx context.Context, driver string) (csi.ControllerServer, error) {
	if c.cfg.Drivers[driver] == nil {
		return nil, nil
	}
	var d storagev1.CSIDriver
	if err := c.client.Get(ctx, client.ObjectKey{Name: driver}, &d); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if _, ours := d.Labels[machinev1alpha1.CloudMark]; !ours {
		return nil, nil
	}
	return c.cfg.Drivers[driver], nil
}

// driverName is the CSI driver of a provisioner or a volume plugin.
func (c *Controller) driverName(plugin string) string {
	if name, err := c.translator.GetCSINameFromInTreeName(plugin); err == nil {
		return name
	}
	return plugin
}

// asCSI is the volume as its CSI driver sees it; nil for volumes of no driver.
func (c *Controller) asCSI(ctx context.Context, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	if c.translator.IsPVMigratable(pv) {
		translated, err := c.translator.TranslateInTreePVToCSI(klog.FromContext(ctx), pv.DeepCopy())
		if err != nil {
			return nil, fmt.Errorf("translate volume %s: %w", pv.Name, err)
		}
		return translated, nil
	}
	if pv.Spec.CSI == nil {
		return nil, nil
	}
	return pv, nil
}

// driverOf is the driver of a volume, or nothing.
func (c *Controller) driverOf(pv *corev1.PersistentVolume) string {
	if pv.Spec.CSI != nil {
		return pv.Spec.CSI.Driver
	}
	plugin, err := c.translator.GetInTreePluginNameFromSpec(pv, nil)
	if err != nil {
		return ""
	}
	return c.driverName(plugin)
}

// boundVolume is a claim's, and who serves it.
type boundVolume struct {
	claim  *corev1.PersistentVolumeClaim
	pv     *corev1.PersistentVolume
	driver string
	server csi.ControllerServer
}

// volumeOf is the volume of a claim that wants something of a driver of ours,
// else nil.
func (c *Controller) volumeOf(ctx context.Context, req ctrl.Request, wants func(*corev1.PersistentVolumeClaim) bool) (*boundVolume, error) {
	v := &boundVolume{claim: &corev1.PersistentVolumeClaim{}, pv: &corev1.PersistentVolume{}}
	if err := c.client.Get(ctx, req.NamespacedName, v.claim); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if !wants(v.claim) {
		return nil, nil
	}
	if err := c.client.Get(ctx, client.ObjectKey{Name: v.claim.Spec.VolumeName}, v.pv); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	v.driver = c.driverOf(v.pv)
	var err error
	if v.server, err = c.serves(ctx, v.driver); err != nil || v.server == nil {
		return nil, err
	}
	return v, nil
}
