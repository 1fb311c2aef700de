package needs

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume"
)

// Plugins are upstream's, with reasons in the errors of those that look for a
// device of the node's.
func Plugins(upstream []volume.VolumePlugin) []volume.VolumePlugin {
	return explainAll(upstream, theHost())
}

func explainAll(upstream []volume.VolumePlugin, h host) []volume.VolumePlugin {
	reasons := map[string]func() string{"kubernetes.io/iscsi": h.iscsi, "kubernetes.io/fc": h.fibreChannel}
	list := make([]volume.VolumePlugin, len(upstream))
	for i, p := range upstream {
		list[i] = p
		reason, wanted := reasons[p.GetPluginName()]
		if disk, ok := p.(diskPlugin); ok && wanted {
			list[i] = plugin{disk, reason}
		}
	}
	return list
}

// diskPlugin is all that upstream's plugins for iSCSI and Fibre Channel are: by
// its methods the kubelet sees what a plugin can.
type diskPlugin interface {
	volume.PersistentVolumePlugin
	volume.AttachableVolumePlugin
	volume.BlockVolumePlugin
}

type plugin struct {
	diskPlugin
	reason func() string
}

func (p plugin) NewAttacher() (volume.Attacher, error) {
	upstream, err := p.diskPlugin.NewAttacher()
	return attacher{upstream, p.reason}, err
}

type attacher struct {
	volume.Attacher
	reason func() string
}

// WaitForAttach is where both plugins look for the device.
func (a attacher) WaitForAttach(spec *volume.Spec, devicePath string, pod *corev1.Pod, timeout time.Duration) (string, error) {
	path, err := a.Attacher.WaitForAttach(spec, devicePath, pod, timeout)
	if err != nil {
		err = because(err, a.reason())
	}
	return path, err
}
