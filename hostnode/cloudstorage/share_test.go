package cloudstorage_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
)

func TestSharesHaveDirectories(t *testing.T) {
	w := newCloud(t, "cephfs", machinev1alpha1.Cloud{RemovedVolumes: true, CreateMissing: true})
	at := func(name, directory string, readOnly bool) string {
		t.Helper()
		path := filepath.Join(w.dir, name)
		for range 2 { // a kubelet may ask again
			if err := w.node.MountShare(cloudstorage.Share{ID: "monitors", Directory: directory, ReadOnly: readOnly}, path); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() {
			if err := unix.Unmount(path, 0); err != nil {
				t.Error(err)
			}
		})
		return path
	}
	whole, part := at("whole", "/", false), at("part", "/a/b", false)
	if err := os.WriteFile(filepath.Join(part, "f"), []byte("written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(whole, "a/b/f")); err != nil || string(data) != "written" {
		t.Errorf("a directory's file in the whole volume: %q, %v", data, err)
	}
	if err := os.WriteFile(filepath.Join(at("read", "a", true), "g"), nil, 0o600); err == nil {
		t.Error("a read-only share was written to")
	}
	// A link that a user puts into the volume leads nowhere else.
	if err := os.Symlink("/etc", filepath.Join(whole, "out")); err != nil {
		t.Fatal(err)
	}
	if err := w.node.MountShare(cloudstorage.Share{ID: "monitors", Directory: "out"}, filepath.Join(w.dir, "out")); err == nil {
		t.Error("a link led out of the volume")
	}
	if _, err := os.Stat(filepath.Join(at("up", "../../..", false), "a/b/f")); err != nil {
		t.Errorf("above the volume is the volume: %v", err)
	}
}

func TestSharesThatNobodyMade(t *testing.T) {
	w := newCloud(t, "glusterfs", machinev1alpha1.Cloud{RemovedVolumes: true})
	if id := w.create(t, "endpoints:volume", false, nil); id != "endpoints:volume" {
		t.Errorf("a volume that its user names has the id %s", id)
	}
	for _, s := range []cloudstorage.Share{{ID: "endpoints:other"}, {ID: "endpoints:volume", Directory: "other"}} {
		if err := w.node.MountShare(s, filepath.Join(w.dir, "target")); status.Code(err) != codes.NotFound {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
