package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/volumemanager"
	"k8s.io/kubernetes/pkg/kubelet/volumemanager/cache"
	"k8s.io/kubernetes/pkg/volume"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
	volumetypes "k8s.io/kubernetes/pkg/volume/util/types"

	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
)

// Upstream's volume manager looks at a volume when it mounts it, and not again:
// a container that starts anew gets whatever is there by then. Of a hostPath
// that is gone the runtime makes an empty directory, although the CRI asks it for
// an error; a directory that was removed under its mount stays mounted, and a
// device keeps its file as long as nothing detaches it. So we look before each
// start of a container. One whose volume is gone waits with upstream's
// CreateContainerConfigError. What was put back as something new is mounted
// anew by upstream's volume manager, before the container is tried again.
//
// Upstream changed when one of the fields is gone: then all is as described.

// lostVolumes looks for what is behind volumes.
type lostVolumes struct {
	wanted cache.DesiredStateOfWorld
	actual cache.ActualStateOfWorld
	// driver says what an emulated driver knows of a volume.
	driver func(driver, id, at string) *cloudstorage.Lost

	mu sync.Mutex
	// pods are those whose container was kept from starting; mu guards it.
	pods map[volumetypes.UniquePodName]bool
}

// missVolumes makes k's containers wait for volumes that are gone. It comes
// after eagerVolumes.
func missVolumes(k *kubelet.Kubelet, driver func(driver, id, at string) *cloudstorage.Lost) error {
	manager, err := unexported[volumemanager.VolumeManager](k, "volumeManager")
	if err != nil {
		return err
	}
	eager, ok := (*manager).(*eagerVolumeManager)
	if !ok {
		return fmt.Errorf("the kubelet's volume manager is a %T", *manager)
	}
	wanted, err := unexported[cache.DesiredStateOfWorld](eager.VolumeManager, "desiredStateOfWorld")
	if err != nil {
		return err
	}
	actual, err := unexported[cache.ActualStateOfWorld](eager.VolumeManager, "actualStateOfWorld")
	if err != nil {
		return err
	}
	runtime, err := unexported[kubecontainer.Runtime](k, "containerRuntime")
	if err != nil {
		return err
	}
	helper, err := unexported[kubecontainer.RuntimeHelper](*runtime, "runtimeHelper")
	if err != nil {
		return err
	}
	l := &lostVolumes{wanted: *wanted, actual: *actual, driver: driver, pods: map[volumetypes.UniquePodName]bool{}}
	*helper = missingHelper{RuntimeHelper: *helper, lost: l}
	*manager = &renewingVolumeManager{eagerVolumeManager: eager, lost: l}
	return nil
}

// missingHelper is asked by upstream for all that a container is made of.
type missingHelper struct {
	kubecontainer.RuntimeHelper
	lost *lostVolumes
}

// GenerateRunContainerOptions refuses a container whose volume is gone.
func (h missingHelper) GenerateRunContainerOptions(ctx context.Context, pod *corev1.Pod, container *corev1.Container, podIP string, podIPs []string,
	images kubecontainer.ImageVolumes) (*kubecontainer.RunContainerOptions, func(), error) {
	if err := h.lost.keep(pod, container); err != nil {
		return nil, nil, err
	}
	return h.RuntimeHelper.GenerateRunContainerOptions(ctx, pod, container, podIP, podIPs, images)
}

// keep is an error when a volume of the container is gone.
func (l *lostVolumes) keep(pod *corev1.Pod, container *corev1.Container) error {
	podName := volumeutil.GetUniquePodName(pod)
	var errs []error
	for _, name := range volumesOf(container) {
		mounted, ok := l.volume(podName, name)
		if !ok {
			continue // which upstream finds out
		}
		if lost := l.behind(mounted); lost != nil {
			errs = append(errs, describeLost(name, mounted, lost))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(errs) == 0 {
		delete(l.pods, podName)
		return nil
	}
	l.pods[podName] = true
	return errors.Join(errs...)
}

// volumesOf are the names of the Pod's volumes that the container has, each
// once.
func volumesOf(container *corev1.Container) (names []string) {
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, m := range container.VolumeMounts {
		add(m.Name)
	}
	for _, d := range container.VolumeDevices {
		add(d.Name)
	}
	return names
}

func (l *lostVolumes) volume(pod volumetypes.UniquePodName, name string) (cache.MountedVolume, bool) {
	unique, ok := l.wanted.GetVolumeNamesForPod(pod)[name]
	if !ok {
		return cache.MountedVolume{}, false
	}
	return l.actual.GetMountedVolumeForPod(pod, unique)
}

// describeLost names the volume as the Pod and as the cluster have it, and what
// to do.
func describeLost(name string, v cache.MountedVolume, lost *cloudstorage.Lost) error {
	mend := "the container starts when it is back"
	if lost.Replaced {
		mend = "it is mounted anew, and the container starts then"
	} else if dir := removedAbove(lost.Path); dir != "" {
		mend = fmt.Sprintf("all of %s was removed on the host: put it back, and restart the cluster", dir)
	}
	volume := fmt.Sprintf("volume %q", name)
	if pv := v.VolumeSpec.PersistentVolume; pv != nil {
		volume += " (" + pv.Name + ")"
	}
	return fmt.Errorf("%s: %w; %s", volume, lost, mend)
}

// removedAbove is the nearest directory above a missing path if it is one that
// was removed while it is mounted here: what is put in its place on the host is
// not seen here. Empty: there is none.
func removedAbove(path string) string {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		unlinked, err := isUnlinked(dir)
		switch {
		case err == nil && unlinked:
			return dir
		case err == nil, dir == filepath.Dir(dir):
			return ""
		}
	}
}

// isUnlinked tells whether a directory is in no other any more.
func isUnlinked(dir string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return false, err
	}
	return st.Nlink == 0, nil
}

// behind is what is missing of a volume; nil: nothing that we know of.
func (l *lostVolumes) behind(v cache.MountedVolume) *cloudstorage.Lost {
	if own, ok := v.Mounter.(interface{ Lost() *cloudstorage.Lost }); ok {
		return own.Lost()
	}
	if path := hostPathOf(v.VolumeSpec); path != "" {
		return missingPath(path)
	}
	if v.VolumeSpec.PersistentVolume == nil {
		if e := v.VolumeSpec.Volume; e != nil && e.EmptyDir != nil && v.Mounter != nil {
			return missingPath(v.Mounter.GetPath())
		}
		return nil
	}
	switch source := v.VolumeSpec.PersistentVolume.Spec; {
	case source.Local != nil:
		return lostLocal(source.Local.Path, v)
	case source.CSI != nil:
		return l.driver(source.CSI.Driver, source.CSI.VolumeHandle, mountedAt(v))
	}
	return nil
}

// hostPathOf is the path of a hostPath that is not to be made when it is not
// there; empty: it is something else.
func hostPathOf(spec *volume.Spec) string {
	var source *corev1.HostPathVolumeSource
	switch {
	case spec.PersistentVolume != nil:
		source = spec.PersistentVolume.Spec.HostPath
	case spec.Volume != nil:
		source = spec.Volume.HostPath
	}
	if source == nil || source.Type == nil {
		return ""
	}
	switch *source.Type {
	case corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathFileOrCreate:
		return ""
	}
	return source.Path
}

// mountedAt is where the Pod's volume is; empty: nowhere.
func mountedAt(v cache.MountedVolume) string {
	switch {
	case v.BlockVolumeMapper != nil:
		dir, name := v.BlockVolumeMapper.GetPodDeviceMapPath()
		return filepath.Join(dir, name)
	case v.Mounter != nil:
		return v.Mounter.GetPath()
	}
	return ""
}

// lostLocal compares a directory, or a file system's root, with what is
// mounted. A device is only looked for: upstream mounts what is on it.
func lostLocal(path string, v cache.MountedVolume) *cloudstorage.Lost {
	if info, err := os.Stat(path); err == nil && !info.IsDir() || v.Mounter == nil {
		return missingPath(path)
	}
	return cloudstorage.LostDirectory(path, v.Mounter.GetPath())
}

func missingPath(path string) *cloudstorage.Lost {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return &cloudstorage.Lost{Path: path}
	}
	return nil
}

// renewingVolumeManager mounts anew what was put back under the Pods that wait
// for it.
type renewingVolumeManager struct {
	*eagerVolumeManager
	lost *lostVolumes
}

// WaitForAttachAndMount is called before the containers of a Pod are started.
func (m *renewingVolumeManager) WaitForAttachAndMount(ctx context.Context, pod *corev1.Pod) error {
	if pod != nil {
		if err := m.renew(ctx, volumeutil.GetUniquePodName(pod)); err != nil {
			return err
		}
	}
	return m.eagerVolumeManager.WaitForAttachAndMount(ctx, pod)
}

// unmountBound is how long upstream's volume manager may take to unmount. It
// goes on afterwards.
const unmountBound = 20 * time.Second

// renew lets upstream unmount the volumes of the Pod that were replaced.
// Upstream mounts them again: the Pod wants them still. Containers that run
// keep what they have.
func (m *renewingVolumeManager) renew(ctx context.Context, pod volumetypes.UniquePodName) error {
	if !m.lost.waits(pod) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, unmountBound)
	defer cancel()
	for _, v := range m.lost.actual.GetMountedVolumesForPod(pod) {
		lost := m.lost.behind(v)
		if lost == nil || !lost.Replaced {
			continue
		}
		m.lost.wanted.DeletePodFromVolume(pod, v.VolumeName)
		end := m.pace.begin()
		m.pace.look(ctx, func() bool { return m.lost.unmounted(pod, v) })
		end()
		if !m.lost.unmounted(pod, v) {
			return fmt.Errorf("volume %s: %w, and is not unmounted yet", v.VolumeSpec.Name(), lost)
		}
	}
	return nil
}

// waits tells whether a container of the Pod was kept from starting.
func (l *lostVolumes) waits(pod volumetypes.UniquePodName) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pods[pod]
}

func (l *lostVolumes) unmounted(pod volumetypes.UniquePodName, v cache.MountedVolume) bool {
	for _, have := range l.actual.GetPossiblyMountedVolumesForPod(pod) {
		if have.VolumeName == v.VolumeName {
			return false
		}
	}
	return true
}

// WaitForUnmount ends what is known of a Pod.
func (m *renewingVolumeManager) WaitForUnmount(ctx context.Context, pod *corev1.Pod) error {
	if pod != nil {
		m.lost.forget(volumeutil.GetUniquePodName(pod))
	}
	return m.eagerVolumeManager.WaitForUnmount(ctx, pod)
}

func (l *lostVolumes) forget(pod volumetypes.UniquePodName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pods, pod)
}
