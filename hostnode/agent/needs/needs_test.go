package needs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/fc"
	"k8s.io/kubernetes/pkg/volume/hostpath"
	"k8s.io/kubernetes/pkg/volume/iscsi"
	"k8s.io/kubernetes/pkg/volume/nfs"
	"k8s.io/mount-utils"
)

// testHost has the file systems, programs and classes of devices that are
// named; "class/device" is a device of a class.
func testHost(t *testing.T, filesystems string, programs, classes []string) host {
	t.Helper()
	dir := t.TempDir()
	list := filepath.Join(dir, "filesystems")
	if err := os.WriteFile(list, []byte(filesystems), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, class := range classes {
		if err := os.MkdirAll(filepath.Join(dir, "class", class), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return host{filesystems: list, sys: dir, program: func(name string) (string, error) {
		if slices.Contains(programs, name) {
			return "/sbin/" + name, nil
		}
		return "", os.ErrNotExist
	}}
}

const oldKernel, newKernel = "nodev\tproc\n\text4\n", "nodev\tproc\n\text4\nnodev\tnfs\nnodev\tnfs4\n"

func TestReasons(t *testing.T) {
	for _, tc := range []struct {
		name        string
		filesystems string
		programs    []string
		classes     []string
		reason      func(host) string
		want        []string
	}{
		{"nfs: nothing there", oldKernel, nil, nil, func(h host) string { return h.filesystem("nfs") },
			[]string{"has no mount.nfs", "nfs-common", "kernel has no file system nfs", "modprobe nfs"}},
		{"nfs: the program only", oldKernel, []string{"mount.nfs"}, nil, func(h host) string { return h.filesystem("nfs") },
			[]string{"kernel has no file system nfs"}},
		{"nfs: the kernel only", newKernel, nil, nil, func(h host) string { return h.filesystem("nfs") },
			[]string{"has no mount.nfs"}},
		{"nfs: both", newKernel, []string{"mount.nfs"}, nil, func(h host) string { return h.filesystem("nfs") }, nil},
		{"a disk's file system", oldKernel, nil, nil, func(h host) string { return h.filesystem("btrfs") },
			[]string{"kernel has no file system btrfs"}},
		{"a disk's file system that is there", oldKernel, nil, nil, func(h host) string { return h.filesystem("ext4") }, nil},
		{"a program's", oldKernel, nil, nil, func(h host) string { return h.filesystem("fuse.sshfs") }, nil},
		{"iscsi: nothing there", "", nil, nil, host.iscsi, []string{"no iscsiadm", "open-iscsi", "no iSCSI initiator", "modprobe iscsi_tcp"}},
		{"iscsi: the program only", "", []string{"iscsiadm"}, nil, host.iscsi, []string{"no iSCSI initiator"}},
		{"iscsi: both", "", []string{"iscsiadm"}, []string{"iscsi_transport/tcp"}, host.iscsi, nil},
		{"fc: no adapter", "", nil, []string{"fc_host"}, host.fibreChannel, []string{"no Fibre Channel adapter"}},
		{"fc: an adapter", "", nil, []string{"fc_host/host1"}, host.fibreChannel, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := tc.reason(testHost(t, tc.filesystems, tc.programs, tc.classes))
			for _, part := range tc.want {
				if !strings.Contains(got, part) {
					t.Errorf("%q does not say %q", got, part)
				}
			}
			if tc.want == nil && got != "" {
				t.Errorf("says %q, want nothing", got)
			}
			for _, part := range []string{"mount.nfs", "no file system", "iscsiadm", "initiator", "adapter"} {
				if strings.Contains(got, part) && !strings.Contains(strings.Join(tc.want, " "), part) {
					t.Errorf("%q says %q, which is not missing", got, part)
				}
			}
		})
	}
}

func TestAKernelThatDoesNotSayIsNotBlamed(t *testing.T) {
	h := testHost(t, "", nil, nil)
	h.filesystems = filepath.Join(t.TempDir(), "missing")
	if got := h.filesystem("ext4"); got != "" {
		t.Errorf("says %q", got)
	}
}

// failing is a mounter whose mounts fail.
type failing struct{ *mount.FakeMounter }

var errMount = errors.New("mount(8) failed")

func (failing) Mount(string, string, string, []string) error { return errMount }
func (failing) MountSensitive(string, string, string, []string, []string) error {
	return errMount
}
func (failing) MountSensitiveWithoutSystemd(string, string, string, []string, []string) error {
	return errMount
}
func (failing) MountSensitiveWithoutSystemdWithMountFlags(string, string, string, []string, []string, []string) error {
	return errMount
}

func TestAFailedMountHasItsReason(t *testing.T) {
	h := testHost(t, oldKernel, nil, nil)
	m := explain(failing{mount.NewFakeMounter(nil)}, h)
	for name, call := range map[string]func(kind string) error{
		"Mount":          func(kind string) error { return m.Mount("s", "/t", kind, nil) },
		"MountSensitive": func(kind string) error { return m.MountSensitive("s", "/t", kind, nil, nil) },
		"MountSensitiveWithoutSystemd": func(kind string) error {
			return m.MountSensitiveWithoutSystemd("s", "/t", kind, nil, nil)
		},
		"MountSensitiveWithoutSystemdWithMountFlags": func(kind string) error {
			return m.MountSensitiveWithoutSystemdWithMountFlags("s", "/t", kind, nil, nil, nil)
		},
	} {
		err := call("nfs")
		if !errors.Is(err, errMount) || !strings.Contains(err.Error(), "kernel has no file system nfs") {
			t.Errorf("%s of nfs: %v", name, err)
		}
		// A bind mount has no type.
		for _, kind := range []string{"", "ext4"} {
			if err := call(kind); err == nil || err.Error() != errMount.Error() {
				t.Errorf("%s of %q: %v", name, kind, err)
			}
		}
	}
	works := explain(mount.NewFakeMounter(nil), h)
	if err := works.Mount("s", "/t", "nfs", nil); err != nil {
		t.Errorf("a mount that works: %v", err)
	}
}

// Upstream's nfs unmounts by force if the mounter can: a server may be gone.
func TestForceStaysPossible(t *testing.T) {
	if _, ok := Mounter().(mount.MounterForceUnmounter); !ok {
		t.Error("upstream's mounter can, ours cannot")
	}
	if _, ok := explain(failing{mount.NewFakeMounter(nil)}, theHost()).(mount.MounterForceUnmounter); ok {
		t.Error("ours says that it can, what is below cannot")
	}
}

// The kubelet sees by a plugin's methods what it can.
func TestPluginsCanWhatUpstreamsCan(t *testing.T) {
	upstream := slices.Concat(iscsi.ProbeVolumePlugins(), fc.ProbeVolumePlugins(),
		nfs.ProbeVolumePlugins(volume.VolumeConfig{}), hostpath.ProbeVolumePlugins(volume.VolumeConfig{}))
	ours := explainAll(upstream, theHost())
	for i, p := range upstream {
		if _, explained := ours[i].(plugin); explained != strings.Contains("kubernetes.io/iscsi kubernetes.io/fc", p.GetPluginName()) {
			t.Errorf("%s: with reasons: %v", p.GetPluginName(), explained)
		}
		for name, can := range map[string]func(volume.VolumePlugin) bool{
			"persistent":      as[volume.PersistentVolumePlugin],
			"attachable":      as[volume.AttachableVolumePlugin],
			"device mounting": as[volume.DeviceMountableVolumePlugin],
			"block":           as[volume.BlockVolumePlugin],
			"provisioning":    as[volume.ProvisionableVolumePlugin],
			"deleting":        as[volume.DeletableVolumePlugin],
			"recycling":       as[volume.RecyclableVolumePlugin],
			"expanding":       as[volume.ExpandableVolumePlugin],
			"node expanding":  as[volume.NodeExpandableVolumePlugin],
		} {
			if can(p) != can(ours[i]) {
				t.Errorf("%s: %s: upstream's %v, ours %v", p.GetPluginName(), name, can(p), can(ours[i]))
			}
		}
	}
}

func as[T any](p volume.VolumePlugin) bool {
	_, ok := p.(T)
	return ok
}

// noDevice is an attacher to which no device appears.
type noDevice struct{ volume.Attacher }

var errDevice = errors.New("no such device")

func (noDevice) WaitForAttach(*volume.Spec, string, *corev1.Pod, time.Duration) (string, error) {
	return "", errDevice
}

func TestADeviceThatDoesNotAppearHasItsReason(t *testing.T) {
	for reason, want := range map[string]string{"the host has none": "the host has none. no such device", "": "no such device"} {
		_, err := attacher{noDevice{}, func() string { return reason }}.WaitForAttach(nil, "", nil, 0)
		if !errors.Is(err, errDevice) || err.Error() != want {
			t.Errorf("reason %q: %v", reason, err)
		}
	}
}
