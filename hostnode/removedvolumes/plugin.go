package removedvolumes

import (
	"context"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
	"k8s.io/mount-utils"
	"k8s.io/utils/ptr"
	utilstrings "k8s.io/utils/strings"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
)

// prefix is that of upstream's plugins.
const prefix = "kubernetes.io/"

// Config of the plugins.
type Config struct {
	Cloud machinev1alpha1.Cloud
	// StorageDir is where the volumes are. Default: the machine's.
	StorageDir string
	// NodeName is the kubelet's node; empty: the plugins are for controllers.
	NodeName string
}

// Plugins makes the plugins for one of upstream's volume managers, or none
// when the cluster does not want them.
func Plugins(cfg Config) ([]volume.VolumePlugin, error) {
	if !cfg.Cloud.RemovedVolumes {
		return nil, nil
	}
	var plugins []volume.VolumePlugin
	for _, k := range kinds() {
		driver, err := cloudstorage.New(cloudstorage.Config{Cloud: cfg.Cloud, Root: cfg.StorageDir}, k.driver)
		if err != nil {
			return nil, err
		}
		p := &plugin{kind: k, driver: driver, nodeName: cfg.NodeName}
		p.node = driver.Node(cfg.NodeName, func() (string, error) { return "", nil })
		plugins = append(plugins, p.able())
	}
	return plugins, nil
}

// plugin is upstream's interface to one kind of volume.
type plugin struct {
	kind
	driver   *cloudstorage.Driver
	node     *cloudstorage.Node
	nodeName string
	host     volume.VolumeHost
}

// able is the plugin with the interfaces that its kind has.
func (p *plugin) able() volume.VolumePlugin {
	switch disk := (&diskPlugin{p}); {
	case p.disk && p.grows:
		return growingDisk{disk}
	case p.disk:
		return disk
	case p.grows:
		return growingShare{p}
	}
	return p
}

var (
	_ volume.PersistentVolumePlugin    = &plugin{}
	_ volume.ProvisionableVolumePlugin = &plugin{}
	_ volume.DeletableVolumePlugin     = &plugin{}
	_ volume.AttachableVolumePlugin    = &diskPlugin{}
)

// Init registers the node with the storage: disks are attached to known ones.
func (p *plugin) Init(host volume.VolumeHost) error {
	p.host = host
	if p.nodeName == "" || !p.disk {
		return nil
	}
	_, err := p.node.NodeGetInfo(context.Background(), &csi.NodeGetInfoRequest{})
	return err
}

func (p *plugin) GetPluginName() string             { return prefix + p.kind.driver }
func (p *plugin) RequiresRemount(*volume.Spec) bool { return false }
func (p *plugin) SupportsMountOption() bool         { return true }

func (p *plugin) GetAccessModes() []corev1.PersistentVolumeAccessMode { return p.modes }

func (p *plugin) SupportsSELinuxContextMount(*volume.Spec) (bool, error) { return false, nil }

func (p *plugin) CanSupport(spec *volume.Spec) bool {
	_, err := p.refer(spec, "")
	return err == nil
}

func (p *plugin) GetVolumeName(spec *volume.Spec) (string, error) {
	r, err := p.refer(spec, "")
	if err != nil {
		return "", err
	}
	return r.id, nil
}

// ConstructVolumeSpec is for what a restarted kubelet finds mounted: no part
// of a share's name matters then.
func (p *plugin) ConstructVolumeSpec(volumeName, _ string) (volume.ReconstructedVolume, error) {
	return p.reconstruct(volumeName, "")
}

func (p *plugin) reconstruct(volumeName, id string) (volume.ReconstructedVolume, error) {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: volumeName}}
	// Without a mode the kubelet never unmounts the disk.
	pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	if p.write == nil {
		pv.Spec.CephFS = &corev1.CephFSPersistentVolumeSource{}
	} else {
		pv.Spec.PersistentVolumeSource = p.write(id, nil)
	}
	return volume.ReconstructedVolume{Spec: volume.NewSpecFromPersistentVolume(pv, false)}, nil
}

func (p *plugin) NewMounter(spec *volume.Spec, pod *corev1.Pod) (volume.Mounter, error) {
	r, err := p.refer(spec, pod.Namespace)
	if err != nil {
		return nil, err
	}
	return &mounter{podVolume: p.podVolume(spec.Name(), pod.UID), reference: r, options: volumeutil.MountOptionFromSpec(spec), pod: pod}, nil
}

func (p *plugin) NewUnmounter(name string, podUID types.UID) (volume.Unmounter, error) {
	return &unmounter{p.podVolume(name, podUID)}, nil
}

func (p *plugin) podVolume(name string, podUID types.UID) podVolume {
	path := p.host.GetPodVolumeDir(podUID, utilstrings.EscapeQualifiedName(p.GetPluginName()), name)
	return podVolume{plugin: p, path: path, MetricsProvider: volume.NewMetricsStatFS(path)}
}

// podVolume is a volume of a Pod.
type podVolume struct {
	plugin *plugin
	path   string
	volume.MetricsProvider
}

func (v podVolume) GetPath() string { return v.path }

// mounter shows a volume to a Pod.
type mounter struct {
	podVolume
	*reference
	options []string
	pod     *corev1.Pod
}

func (m *mounter) GetAttributes() volume.Attributes {
	return volume.Attributes{ReadOnly: m.readOnly, Managed: m.plugin.managed && !m.readOnly}
}

func (m *mounter) SetUp(args volume.MounterArgs) error { return m.SetUpAt(m.path, args) }

func (m *mounter) SetUpAt(dir string, args volume.MounterArgs) error {
	ctx := context.Background()
	if err := m.needs(ctx); err != nil {
		return err
	}
	var err error
	if m.plugin.disk {
		_, err = m.plugin.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: m.id, StagingTargetPath: m.plugin.deviceMountPath(m.id), TargetPath: dir,
			Readonly: m.readOnly, VolumeCapability: capability(m.fsType, m.options, m.readOnly),
		})
	} else {
		err = m.plugin.node.MountShare(cloudstorage.Share{ID: m.id, Directory: m.directory, ReadOnly: m.readOnly, Options: m.options}, dir)
	}
	if err != nil || !m.GetAttributes().Managed {
		return err
	}
	return volume.NewVolumeOwnership(m, dir, args.FsGroup, args.FSGroupChangePolicy, nil).
		AddProgressNotifier(m.pod, args.Recorder).ChangePermissions()
}

// Lost says whether what is behind the volume is gone.
func (m *mounter) Lost() *cloudstorage.Lost { return m.plugin.node.Lost(m.id, m.path) }

// needs refuses a volume whose objects are missing, as upstream did.
func (m *mounter) needs(ctx context.Context) error {
	core := m.plugin.host.GetKubeClient().CoreV1()
	if m.secret != "" {
		if _, err := core.Secrets(m.namespace).Get(ctx, m.secret, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("secret of the volume: %w", err)
		}
	}
	if m.endpoints != "" {
		if _, err := core.Endpoints(m.namespace).Get(ctx, m.endpoints, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("endpoints of the volume: %w", err)
		}
	}
	return nil
}

// unmounter takes a volume away from a Pod.
type unmounter struct{ podVolume }

func (u *unmounter) TearDown() error { return u.TearDownAt(u.path) }

func (u *unmounter) TearDownAt(dir string) error {
	if _, err := os.Lstat(dir); os.IsNotExist(err) {
		return nil
	}
	return mount.CleanupMountPoint(dir, u.plugin.host.GetMounter(), true)
}
