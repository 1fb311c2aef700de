package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	kubepod "k8s.io/kubernetes/pkg/kubelet/pod"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
	"k8s.io/kubernetes/pkg/kubelet/volumemanager"
	"k8s.io/kubernetes/pkg/kubelet/volumemanager/cache"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/util/operationexecutor"

	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
)

// at is a volume that is mounted at a path.
type at struct {
	volume.Mounter
	path string
}

func (m at) GetPath() string { return m.path }

// own is a volume that knows what is behind it.
type own struct{ at }

func (m own) Lost() *cloudstorage.Lost { return &cloudstorage.Lost{Path: m.path} }

func mountedVolume(spec *volume.Spec, mounter volume.Mounter) cache.MountedVolume {
	return cache.MountedVolume{MountedVolume: operationexecutor.MountedVolume{VolumeSpec: spec, Mounter: mounter}}
}

func persistent(source corev1.PersistentVolumeSource) *volume.Spec {
	return volume.NewSpecFromPersistentVolume(&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: source}}, false)
}

func inline(source corev1.VolumeSource) *volume.Spec {
	return volume.NewSpecFromVolume(&corev1.Volume{Name: "v", VolumeSource: source})
}

func TestWhatIsBehindAVolume(t *testing.T) {
	dir := t.TempDir()
	there, gone := filepath.Join(dir, "there"), filepath.Join(dir, "gone")
	another := filepath.Join(dir, "another")
	for _, d := range []string{there, another} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	hostPath := func(path string, kind corev1.HostPathType) *corev1.HostPathVolumeSource {
		return &corev1.HostPathVolumeSource{Path: path, Type: &kind}
	}
	local := func(path string) *volume.Spec {
		return persistent(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}})
	}
	csi := persistent(corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}})
	l := &lostVolumes{driver: func(driver, id, at string) *cloudstorage.Lost {
		return &cloudstorage.Lost{Path: driver + " " + id + " " + at, Replaced: true}
	}}
	for _, tt := range []struct {
		name   string
		volume cache.MountedVolume
		want   *cloudstorage.Lost
	}{
		{"a directory that is there", mountedVolume(inline(corev1.VolumeSource{HostPath: hostPath(there, corev1.HostPathDirectory)}), at{path: there}), nil},
		{"a directory", mountedVolume(inline(corev1.VolumeSource{HostPath: hostPath(gone, corev1.HostPathDirectory)}), at{path: gone}), &cloudstorage.Lost{Path: gone}},
		{"a file", mountedVolume(inline(corev1.VolumeSource{HostPath: hostPath(gone, corev1.HostPathFile)}), at{path: gone}), &cloudstorage.Lost{Path: gone}},
		{"of class standard", mountedVolume(persistent(corev1.PersistentVolumeSource{HostPath: hostPath(gone, corev1.HostPathDirectory)}), at{path: gone}), &cloudstorage.Lost{Path: gone}},
		{"a directory that is to be made", mountedVolume(inline(corev1.VolumeSource{HostPath: hostPath(gone, corev1.HostPathDirectoryOrCreate)}), at{path: gone}), nil},
		{"a path that nobody checks", mountedVolume(inline(corev1.VolumeSource{HostPath: hostPath(gone, corev1.HostPathUnset)}), at{path: gone}), nil},
		{"a path without a type", mountedVolume(inline(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: gone}}), at{path: gone}), nil},
		{"an emptyDir", mountedVolume(inline(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}), at{path: gone}), &cloudstorage.Lost{Path: gone}},
		{"a Secret, which upstream writes again", mountedVolume(inline(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}), at{path: gone}), nil},
		{"local", mountedVolume(local(there), at{path: there}), nil},
		{"local, gone", mountedVolume(local(gone), at{path: there}), &cloudstorage.Lost{Path: gone}},
		{"local, another one", mountedVolume(local(another), at{path: there}), &cloudstorage.Lost{Path: another, Replaced: true}},
		{"of a driver", mountedVolume(csi, at{path: there}), &cloudstorage.Lost{Path: "d h " + there, Replaced: true}},
		{"of a plugin of ours", mountedVolume(inline(corev1.VolumeSource{}), own{at{path: gone}}), &cloudstorage.Lost{Path: gone}},
		{"of nobody that we know", mountedVolume(persistent(corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}), at{path: gone}), nil},
	} {
		got := l.behind(tt.volume)
		if (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestAContainerWaitsForItsVolumeOnly(t *testing.T) {
	cfg := testConfig(t)
	with := func(name string, volumes ...string) (c corev1.Container) {
		c.Name = name
		for _, v := range volumes {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v, MountPath: "/" + v}, corev1.VolumeMount{Name: v, MountPath: "/sub/" + v, SubPath: "s"})
		}
		return c
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "p-uid"},
		Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "other", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
			Containers: []corev1.Container{with("writer", "data", "other"), with("bystander", "other")},
		},
	}
	var manager volumemanager.VolumeManager
	var helper missingHelper
	var workers kubelet.PodWorkers
	var pods kubepod.Manager
	withKubelet(t, cfg, func(k *kubelet.Kubelet) {
		if err := missVolumes(k, nil); err == nil {
			t.Error("upstream's volume manager as it is: no error")
		}
		if err := eagerVolumes(k); err != nil {
			t.Fatal(err)
		}
		if err := missVolumes(k, func(string, string, string) *cloudstorage.Lost { return nil }); err != nil {
			t.Fatal(err)
		}
		manager = fieldOf[volumemanager.VolumeManager](t, k, "volumeManager")
		runtime := fieldOf[kubecontainer.Runtime](t, k, "containerRuntime")
		var ok bool
		if helper, ok = fieldOf[kubecontainer.RuntimeHelper](t, runtime, "runtimeHelper").(missingHelper); !ok {
			t.Fatal("the runtime asks another helper")
		}
		workers = fieldOf[kubelet.PodWorkers](t, k, "podWorkers")
		pods = fieldOf[kubepod.Manager](t, k, "podManager")
	})
	ctx := runVolumes(t, manager)
	workers.SyncKnownPods(klog.Background(), nil)
	pods.AddPod(pod)
	workers.UpdatePod(ctx, kubelet.UpdatePodOptions{Pod: pod, UpdateType: kubetypes.SyncPodCreate, StartTime: time.Now()})
	if err := manager.WaitForAttachAndMount(ctx, pod); err != nil {
		t.Fatal(err)
	}
	writer, bystander := &pod.Spec.Containers[0], &pod.Spec.Containers[1]
	dir := manager.GetMountedVolumesForPod("p-uid")["data"].Mounter.GetPath()
	if err := helper.lost.keep(pod, writer); err != nil {
		t.Errorf("nothing is gone: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	_, _, err := helper.GenerateRunContainerOptions(ctx, pod, writer, "", nil, nil)
	if want := `volume "data": ` + dir + ` does not exist; the container starts when it is back`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s, once", err, want)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory was made: %v", err)
	}
	if err := helper.lost.keep(pod, bystander); err != nil {
		t.Errorf("a container without it: %v", err)
	}
	// What is only missing stays mounted.
	if err := manager.WaitForAttachAndMount(ctx, pod); err != nil || len(manager.GetMountedVolumesForPod("p-uid")) != 2 {
		t.Errorf("after another look: %v, mounted %v", err, manager.GetMountedVolumesForPod("p-uid"))
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := helper.lost.keep(pod, writer); err != nil {
		t.Errorf("it is back: %v", err)
	}
}

func TestADirectoryThatIsGoneWithAllAboveSaysSo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := t.TempDir()
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	for _, d := range []string{filepath.Join(source, "pv"), target} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(target, "pv")
	spec := mountedVolume(inline(corev1.VolumeSource{}), at{path: path})
	if err := os.Remove(filepath.Join(source, "pv")); err != nil {
		t.Fatal(err)
	}
	if got := describeLost("v", spec, missingPath(path)).Error(); strings.Contains(got, "restart") {
		t.Errorf("only the volume is gone: %s", got)
	}
	if err := os.Remove(source); err != nil {
		t.Fatal(err)
	}
	if got := describeLost("v", spec, missingPath(path)).Error(); !strings.Contains(got, "all of "+target+" was removed on the host: put it back, and restart the cluster") {
		t.Errorf("all is gone: %s", got)
	}
}
