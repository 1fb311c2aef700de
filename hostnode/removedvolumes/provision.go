package removedvolumes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	volumeerrors "k8s.io/cloud-provider/volume/errors"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/volume"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// patience is how long a deletion waits for a volume to be detached: a node
// says within 10 s that it is not mounted any more.
const patience = 20 * time.Second

// NewProvisioner is asked by upstream's controller for a StorageClass with
// the plugin's name.
func (p *plugin) NewProvisioner(_ klog.Logger, options volume.VolumeOptions) (volume.Provisioner, error) {
	if p.name == nil {
		return nil, fmt.Errorf("%s: has no provisioner", p.GetPluginName())
	}
	return &provisioner{p, options}, nil
}

type provisioner struct {
	*plugin
	volume.VolumeOptions
}

// Provision makes the volume of a claim.
func (p *provisioner) Provision(*corev1.Node, []corev1.TopologySelectorTerm) (*corev1.PersistentVolume, error) {
	ctx := context.Background()
	if p.PVC.Spec.Selector != nil {
		return nil, errors.New("claim Selector is not supported")
	}
	if !volumeutil.ContainsAllAccessModes(p.modes, p.PVC.Spec.AccessModes) {
		return nil, fmt.Errorf("access modes %v: %s has %v", p.PVC.Spec.AccessModes, p.GetPluginName(), p.modes)
	}
	id := p.name(p.PVName, p.PVC.Namespace, p.Parameters)
	request := p.PVC.Spec.Resources.Requests[corev1.ResourceStorage]
	req := &csi.CreateVolumeRequest{Name: id, CapacityRange: &csi.CapacityRange{RequiredBytes: request.Value()}}
	for _, mode := range p.PVC.Spec.AccessModes {
		req.VolumeCapabilities = append(req.VolumeCapabilities, capability(p.Parameters[volume.VolumeParameterFSType], nil, mode == readers))
	}
	made, err := p.driver.CreateVolume(ctx, req)
	if err != nil {
		return nil, err
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: p.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: p.PersistentVolumeReclaimPolicy,
			AccessModes:                   p.PVC.Spec.AccessModes,
			MountOptions:                  p.MountOptions,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(made.GetVolume().GetCapacityBytes(), resource.BinarySI)},
			PersistentVolumeSource:        p.write(id, p.Parameters),
		},
	}
	if v := pv.Spec.Glusterfs; v != nil {
		v.EndpointsNamespace = &p.PVC.Namespace
		err = p.ensureServers(ctx, p.PVC.Namespace, v.EndpointsName)
	}
	return pv, err
}

// ensureServers makes the Endpoints that name the servers of a volume, of
// which there are none, and a Service of their name, without which upstream
// deletes them, as its provisioner did.
func (p *plugin) ensureServers(ctx context.Context, namespace, name string) error {
	core, meta := p.host.GetKubeClient().CoreV1(), metav1.ObjectMeta{Namespace: namespace, Name: name}
	_, err := core.Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 1}}},
	}, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) {
		_, err = core.Endpoints(namespace).Create(ctx, &corev1.Endpoints{ObjectMeta: meta}, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("endpoints of the volume: %w", err)
	}
	return nil
}

func (p *plugin) deleteServers(ctx context.Context, namespace, name string) error {
	core := p.host.GetKubeClient().CoreV1()
	// The Endpoints go with the Service.
	err := core.Services(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// NewDeleter is asked for a released volume with reclaimPolicy Delete.
func (p *plugin) NewDeleter(_ klog.Logger, spec *volume.Spec) (volume.Deleter, error) {
	r, err := p.refer(spec, "")
	if err != nil {
		return nil, err
	}
	if p.name == nil || r.directory != "" {
		return nil, fmt.Errorf("%s: volume %s is deleted where it was made", p.GetPluginName(), spec.Name())
	}
	return &deleter{podVolume{plugin: p, MetricsProvider: &volume.MetricsNil{}}, r}, nil
}

type deleter struct {
	podVolume
	*reference
}

// Delete deletes the volume once no node has it attached any more. Upstream
// asks again after 15 s only.
func (d *deleter) Delete() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, patience/100, true, func(ctx context.Context) (bool, error) {
		_, err := d.plugin.driver.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: d.id})
		if status.Code(err) == codes.FailedPrecondition {
			return false, nil
		}
		return true, err
	})
	if ctx.Err() != nil {
		return volumeerrors.NewDeletedVolumeInUseError("volume " + d.id + " is attached to a node")
	}
	if err != nil || !strings.HasPrefix(d.endpoints, dynamicEndpoints) {
		return err
	}
	return d.plugin.deleteServers(ctx, d.namespace, d.endpoints)
}
