package removedvolumes

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// diskPlugin is a plugin whose volumes are attached to a node, mounted there
// once, and shown to Pods from there.
type diskPlugin struct{ *plugin }

func (p *diskPlugin) CanAttach(*volume.Spec) (bool, error)                { return true, nil }
func (p *diskPlugin) CanDeviceMount(*volume.Spec) (bool, error)           { return true, nil }
func (p *diskPlugin) VerifyExhaustedResource(*volume.Spec) bool           { return false }
func (p *diskPlugin) NewAttacher() (volume.Attacher, error)               { return attacher{p}, nil }
func (p *diskPlugin) NewDetacher() (volume.Detacher, error)               { return attacher{p}, nil }
func (p *diskPlugin) NewDeviceMounter() (volume.DeviceMounter, error)     { return attacher{p}, nil }
func (p *diskPlugin) NewDeviceUnmounter() (volume.DeviceUnmounter, error) { return attacher{p}, nil }

func (p *diskPlugin) GetDeviceMountRefs(path string) ([]string, error) {
	return p.host.GetMounter().GetMountRefs(path)
}

// ConstructVolumeSpec finds the disk by its other mount.
func (p *diskPlugin) ConstructVolumeSpec(volumeName, path string) (volume.ReconstructedVolume, error) {
	refs, err := p.GetDeviceMountRefs(path)
	if err != nil {
		return volume.ReconstructedVolume{}, err
	}
	at := slices.IndexFunc(refs, func(ref string) bool { return filepath.Dir(ref) == p.deviceMountDir() })
	if at < 0 {
		return volume.ReconstructedVolume{}, fmt.Errorf("volume %s: no disk is mounted at %s", volumeName, path)
	}
	id, err := url.QueryUnescape(filepath.Base(refs[at]))
	if err != nil {
		return volume.ReconstructedVolume{}, fmt.Errorf("volume %s: %w", volumeName, err)
	}
	return p.reconstruct(volumeName, id)
}

func (p *plugin) deviceMountDir() string {
	return filepath.Join(p.host.GetPluginDir(p.GetPluginName()), "mounts")
}

func (p *plugin) deviceMountPath(id string) string {
	return filepath.Join(p.deviceMountDir(), url.QueryEscape(id))
}

// capability is how a disk is used.
func capability(fsType string, options []string, readOnly bool) *csi.VolumeCapability {
	mode := csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	if readOnly {
		mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	}
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: options}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

// attacher attaches disks in the control plane, and mounts them on a node.
type attacher struct{ *diskPlugin }

func (a attacher) Attach(spec *volume.Spec, node types.NodeName) (string, error) {
	r, err := a.refer(spec, "")
	if err != nil {
		return "", err
	}
	readOnly := r.readOnly || onlyReaders(spec)
	_, err = a.driver.ControllerPublishVolume(context.Background(), &csi.ControllerPublishVolumeRequest{
		VolumeId: r.id, NodeId: string(node), Readonly: readOnly, VolumeCapability: capability(r.fsType, nil, readOnly),
	})
	return "", err
}

// onlyReaders tells whether a PersistentVolume is for several nodes to read.
func onlyReaders(spec *volume.Spec) bool {
	pv := spec.PersistentVolume
	return pv != nil && len(pv.Spec.AccessModes) > 0 &&
		!slices.ContainsFunc(pv.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool { return m != readers })
}

func (a attacher) Detach(volumeName string, node types.NodeName) error {
	_, err := a.driver.ControllerUnpublishVolume(context.Background(), &csi.ControllerUnpublishVolumeRequest{
		VolumeId: volumeName, NodeId: string(node),
	})
	return err
}

// VolumesAreAttached says yes: nobody else detaches a disk.
func (a attacher) VolumesAreAttached(specs []*volume.Spec, _ types.NodeName) (map[*volume.Spec]bool, error) {
	attached := map[*volume.Spec]bool{}
	for _, spec := range specs {
		attached[spec] = true
	}
	return attached, nil
}

func (a attacher) WaitForAttach(_ *volume.Spec, device string, _ *corev1.Pod, _ time.Duration) (string, error) {
	return device, nil
}

func (a attacher) GetDeviceMountPath(spec *volume.Spec) (string, error) {
	r, err := a.refer(spec, "")
	if err != nil {
		return "", err
	}
	return a.deviceMountPath(r.id), nil
}

func (a attacher) MountDevice(spec *volume.Spec, _, path string, _ volume.DeviceMounterArgs) error {
	r, err := a.refer(spec, "")
	if err != nil {
		return err
	}
	_, err = a.node.NodeStageVolume(context.Background(), &csi.NodeStageVolumeRequest{
		VolumeId: r.id, StagingTargetPath: path,
		VolumeCapability: capability(r.fsType, volumeutil.MountOptionFromSpec(spec), r.readOnly),
	})
	return err
}

func (a attacher) UnmountDevice(path string) error {
	_, err := a.node.NodeUnstageVolume(context.Background(), &csi.NodeUnstageVolumeRequest{
		VolumeId: strings.TrimPrefix(path, a.deviceMountDir()), StagingTargetPath: path,
	})
	if err != nil {
		return err
	}
	if err := os.Remove(path); !os.IsNotExist(err) {
		return err
	}
	return nil
}
