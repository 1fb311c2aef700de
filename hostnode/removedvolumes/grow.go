package removedvolumes

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/kubernetes/pkg/volume"
)

// growingShare and growingDisk are of the kinds that upstream could expand.
type (
	growingShare struct{ *plugin }
	growingDisk  struct{ *diskPlugin }
)

var (
	_ volume.ExpandableVolumePlugin     = growingShare{}
	_ volume.ExpandableVolumePlugin     = growingDisk{}
	_ volume.NodeExpandableVolumePlugin = growingDisk{}
)

func (p growingShare) RequiresFSResize() bool { return false }
func (p growingDisk) RequiresFSResize() bool  { return true }

func (p growingShare) ExpandVolumeDevice(spec *volume.Spec, size, _ resource.Quantity) (resource.Quantity, error) {
	return p.grow(spec, size)
}

func (p growingDisk) ExpandVolumeDevice(spec *volume.Spec, size, _ resource.Quantity) (resource.Quantity, error) {
	return p.grow(spec, size)
}

// grow makes a volume larger, and says how large it is.
func (p *plugin) grow(spec *volume.Spec, size resource.Quantity) (resource.Quantity, error) {
	r, err := p.refer(spec, "")
	if err != nil {
		return resource.Quantity{}, err
	}
	resp, err := p.driver.ControllerExpandVolume(context.Background(), &csi.ControllerExpandVolumeRequest{
		VolumeId: r.id, CapacityRange: &csi.CapacityRange{RequiredBytes: size.Value()},
	})
	if err != nil {
		return resource.Quantity{}, err
	}
	return *resource.NewQuantity(resp.GetCapacityBytes(), resource.BinarySI), nil
}

// NodeExpand lets the file system of a disk fill it.
func (p growingDisk) NodeExpand(options volume.NodeResizeOptions) (bool, error) {
	r, err := p.refer(options.VolumeSpec, "")
	if err != nil {
		return false, err
	}
	_, err = p.node.NodeExpandVolume(context.Background(), &csi.NodeExpandVolumeRequest{VolumeId: r.id, VolumePath: options.DeviceMountPath})
	return err == nil, err
}
