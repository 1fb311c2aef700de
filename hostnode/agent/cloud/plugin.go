package cloud

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume"
)

// pluginName is the name that the kubelet's list of plugins has us under.
const pluginName = "skiff.cluster/emulated-cloud"

// errNoVolumes answers what is never asked of a plugin that supports nothing.
var errNoVolumes = errors.New(pluginName + ": has no volumes of its own")

// plugin hands out the kubelet's volume host.
type plugin struct {
	host chan volume.VolumeHost
}

func (p *plugin) Init(host volume.VolumeHost) error {
	p.host <- host
	return nil
}

func (p *plugin) GetPluginName() string                      { return pluginName }
func (p *plugin) CanSupport(*volume.Spec) bool               { return false }
func (p *plugin) RequiresRemount(*volume.Spec) bool          { return false }
func (p *plugin) SupportsMountOption() bool                  { return false }
func (p *plugin) GetVolumeName(*volume.Spec) (string, error) { return "", errNoVolumes }

func (p *plugin) SupportsSELinuxContextMount(*volume.Spec) (bool, error) { return false, nil }

func (p *plugin) NewMounter(*volume.Spec, *corev1.Pod) (volume.Mounter, error) {
	return nil, errNoVolumes
}

func (p *plugin) NewUnmounter(string, types.UID) (volume.Unmounter, error) {
	return nil, errNoVolumes
}

func (p *plugin) ConstructVolumeSpec(string, string) (volume.ReconstructedVolume, error) {
	return volume.ReconstructedVolume{}, errNoVolumes
}
