package cloudstorage_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/loopdevice"
)

// owner is that of the loop devices of the cloud.
func (w *cloud) owner() loopdevice.Owner { return loopdevice.Owner(filepath.Join(w.dir, "cloud")) }

func (w *cloud) health(t *testing.T, volume, path string) *csi.VolumeHealth_VolumeHealthEntry {
	t.Helper()
	resp, err := w.node.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: volume, VolumePublishPath: path})
	if err != nil {
		t.Fatal(err)
	}
	switch all := resp.GetVolumeHealth().GetHealthStatuses(); len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	default:
		t.Fatalf("health is %v", all)
		return nil
	}
}

func TestAVolumeThatIsGoneIsMissedAndNotBegunAnew(t *testing.T) {
	for _, tt := range []struct {
		name          string
		block, images bool
	}{
		{name: "a directory"},
		{name: "a file system in a file", images: true},
		{name: "a device", block: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newCloud(t, ebs, machinev1alpha1.Cloud{CreateMissing: true, Images: tt.images})
			volume := w.create(t, "v", tt.block, nil)
			path, end := w.use(t, volume, tt.block)
			defer end()
			content := path
			if !tt.block {
				content = filepath.Join(path, "file")
			}
			if err := writeSynced(content, "kept"); err != nil {
				t.Fatal(err)
			}
			dir, copied := filepath.Join(w.dir, "cloud", ebs, "volumes", volume), filepath.Join(w.dir, "copy")
			copyDir(t, dir, copied)
			if l := w.node.Lost(volume, path); l != nil {
				t.Fatalf("lost while it is there: %v", l)
			}

			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if l := w.node.Lost(volume, path); l == nil || l.Replaced || l.Path != dir {
				t.Errorf("removed: %+v, want %s", l, dir)
			}
			if h := w.health(t, volume, path); h.GetStatus() != csi.VolumeHealthErrorType_DATA_LOSS || !strings.Contains(h.GetMessage(), dir) {
				t.Errorf("health is %v", h)
			}
			publish := &csi.NodePublishVolumeRequest{VolumeId: volume, StagingTargetPath: strings.TrimSuffix(path, "-target"), TargetPath: path, VolumeCapability: mode(tt.block)}
			_, again := w.node.NodePublishVolume(t.Context(), publish)
			_, attach := w.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{VolumeId: volume, NodeId: w.id, VolumeCapability: mode(tt.block)})
			for what, err := range map[string]error{"publish": again, "attach": attach} {
				if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), dir) {
					t.Errorf("%s: %v, want one that names %s", what, err, dir)
				}
			}
			if _, err := os.Lstat(dir); !os.IsNotExist(err) {
				t.Errorf("it was begun anew: %v", err)
			}

			copyDir(t, copied, dir)
			if l := w.node.Lost(volume, path); l == nil || !l.Replaced {
				t.Errorf("put back as another: %+v", l)
			}
			if h := w.health(t, volume, path); h.GetStatus() != csi.VolumeHealthErrorType_INACCESSIBLE {
				t.Errorf("health is %v", h)
			}
			if _, err := w.node.NodePublishVolume(t.Context(), publish); err != nil {
				t.Fatal(err)
			}
			if l := w.node.Lost(volume, path); l != nil {
				t.Errorf("published again: %v", l)
			}
			if h := w.health(t, volume, path); h != nil {
				t.Errorf("health is %v", h)
			}
			if got, err := os.ReadFile(content); err != nil || !strings.HasPrefix(string(got), "kept") {
				t.Errorf("it has %.8q, %v", got, err)
			}
		})
	}
}

func TestAVolumeMovedAwayAndBackIsTheSame(t *testing.T) {
	w := newCloud(t, ebs, machinev1alpha1.Cloud{})
	volume := w.create(t, "v", false, nil)
	path, end := w.use(t, volume, false)
	defer end()
	dir := filepath.Join(w.dir, "cloud", ebs, "volumes", volume)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if l := w.node.Lost(volume, path); l == nil || l.Replaced {
		t.Errorf("away: %+v", l)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if l := w.node.Lost(volume, path); l != nil {
		t.Errorf("back: %+v", l)
	}
}

func TestAVolumeThatIsGoneIsDeleted(t *testing.T) {
	w := newCloud(t, ebs, machinev1alpha1.Cloud{CreateMissing: true})
	volume := w.create(t, "v", true, nil)
	w.attach(t, volume, true)
	device, err := w.owner().Attach(w.disk(t), false)
	if err != nil {
		t.Fatal(err)
	}
	device.Close()
	if err := os.RemoveAll(filepath.Join(w.dir, "cloud", ebs, "volumes", volume)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: volume}); err != nil {
		t.Fatal(err)
	}
	expectNoDevice(t, device.Name())
	// Nobody has created it any more: a missing volume of the cloud's.
	w.attach(t, volume, false)
}

func TestDevicesOfFilesThatAreGoneAreDetached(t *testing.T) {
	w := newCloud(t, ebs, machinev1alpha1.Cloud{})
	volume := w.create(t, "v", true, nil)
	file := w.disk(t)
	device, err := w.owner().Attach(file, false)
	if err != nil {
		t.Fatal(err)
	}
	device.Close()
	if is, err := loopdevice.Backs(rdev(t, device.Name()), file); err != nil || !is {
		t.Errorf("backs %s: %v, %v", volume, is, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	elsewhere := loopdevice.Owner(t.TempDir())
	if err := elsewhere.DetachAll("*"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", device.Name()).CombinedOutput(); err != nil {
		t.Fatalf("another owner's devices were detached: %s", out)
	}
	if err := w.owner().DetachAll("*/volumes/*/disk"); err != nil {
		t.Fatal(err)
	}
	expectNoDevice(t, device.Name())
}

func expectNoDevice(t *testing.T, name string) {
	t.Helper()
	if out, err := exec.Command("losetup", name).CombinedOutput(); err == nil {
		t.Errorf("the host still has a device: %s", out)
	}
}

func rdev(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Rdev
}

func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// Of a file system in a file, the file too.
	return unix.Syncfs(int(f.Fd()))
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %s", from, out)
	}
}
