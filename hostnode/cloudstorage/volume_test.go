package cloudstorage_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
	"github.com/skiff-k8s/skiff/hostnode/loopdevice"
)

const (
	ebs  = "ebs.csi.aws.com"
	size = 64 << 20
)

// cloud is one driver and one of its nodes.
type cloud struct {
	*cloudstorage.Driver
	node *cloudstorage.Node
	dir  string
	id   string
}

func newCloud(t *testing.T, driver string, c machinev1alpha1.Cloud) *cloud {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := t.TempDir()
	c.Drivers = []string{driver}
	d, err := cloudstorage.New(cloudstorage.Config{Root: filepath.Join(dir, "cloud"), Cloud: c}, driver)
	if err != nil {
		t.Fatal(err)
	}
	w := &cloud{Driver: d, dir: dir, node: d.Node("node", func() (string, error) { return "", nil })}
	info, err := w.node.NodeGetInfo(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.id = info.GetNodeId()
	return w
}

func mode(block bool) *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER}}
	if block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}
	}
	return c
}

func (w *cloud) create(t *testing.T, name string, block bool, source *csi.VolumeContentSource) string {
	t.Helper()
	resp, err := w.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{mode(block)}, VolumeContentSource: source,
	})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetVolume().GetVolumeId()
}

func (w *cloud) attach(t *testing.T, volume string, block bool) {
	t.Helper()
	if _, err := w.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{
		VolumeId: volume, NodeId: w.id, VolumeCapability: mode(block),
	}); err != nil {
		t.Fatal(err)
	}
}

// use attaches, stages and publishes a volume and returns where it is; end
// undoes all that.
func (w *cloud) use(t *testing.T, volume string, block bool) (path string, end func()) {
	t.Helper()
	ctx := t.Context()
	w.attach(t, volume, block)
	staging, err := os.MkdirTemp(w.dir, "staging")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: volume, StagingTargetPath: staging, VolumeCapability: mode(block)}); err != nil {
		t.Fatal(err)
	}
	path = staging + "-target"
	publish := &csi.NodePublishVolumeRequest{VolumeId: volume, StagingTargetPath: staging, TargetPath: path, VolumeCapability: mode(block)}
	for range 2 { // a kubelet may ask again
		if _, err := w.node.NodePublishVolume(ctx, publish); err != nil {
			t.Fatal(err)
		}
	}
	end = func() {
		if _, err := w.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: volume, TargetPath: path}); err != nil {
			t.Error(err)
		}
		if _, err := w.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: volume, StagingTargetPath: staging}); err != nil {
			t.Error(err)
		}
		if _, err := w.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: volume, NodeId: w.id}); err != nil {
			t.Error(err)
		}
		if device, err := loopdevice.Find(w.disk(t)); err == nil && device != "" {
			t.Errorf("the host still has %s", device)
		}
	}
	return path, end
}

// disk is the only volume's file, if it has one.
func (w *cloud) disk(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dir, "cloud/*/volumes/*/disk"))
	if err != nil || len(found) == 0 {
		return filepath.Join(w.dir, "none")
	}
	return found[0]
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, path, text string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != text {
		t.Errorf("%s: %q, %v; want %q", path, got, err, text)
	}
}

// TestCopiesKeepTheirMoment follows data into a snapshot, a clone, and a
// volume made from the snapshot, in directories and in file systems.
func TestCopiesKeepTheirMoment(t *testing.T) {
	for name, images := range map[string]bool{"directories": false, "images": true} {
		t.Run(name, func(t *testing.T) {
			w := newCloud(t, ebs, machinev1alpha1.Cloud{Images: images})
			volume := w.create(t, "v", false, nil)
			path, end := w.use(t, volume, false)
			write(t, filepath.Join(path, "file"), "then")
			unix.Sync()
			snapshot, err := w.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: volume})
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(path, "file"), "now")
			unix.Sync()
			end()

			fromSnapshot := w.create(t, "restored", false, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
				Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot.GetSnapshot().GetSnapshotId()}}})
			path, end = w.use(t, fromSnapshot, false)
			wants(t, filepath.Join(path, "file"), "then")
			end()
			clone := w.create(t, "clone", false, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
				Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volume}}})
			path, end = w.use(t, clone, false)
			wants(t, filepath.Join(path, "file"), "now")
			end()
			if images {
				wantsHoles(t, w.disk(t))
			}
		})
	}
}

// wantsHoles: a file system of 64 MiB with one small file is not 64 MiB.
func wantsHoles(t *testing.T, file string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; st.Size != size || used > size/2 {
		t.Errorf("%d of %d bytes are on disk", used, st.Size)
	}
}

// TestVolumesGrowWhileTheyAreUsed: a file system and a device see their size.
func TestVolumesGrowWhileTheyAreUsed(t *testing.T) {
	for name, block := range map[string]bool{"a file system": false, "a device": true} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			w := newCloud(t, ebs, machinev1alpha1.Cloud{Images: true})
			volume := w.create(t, "v", block, nil)
			path, end := w.use(t, volume, block)
			defer func() { end() }()
			before := bytesOf(t, path, block)
			resp, err := w.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
				VolumeId: volume, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * size}})
			if err != nil || !resp.GetNodeExpansionRequired() || resp.GetCapacityBytes() != 2*size {
				t.Fatal(resp, err)
			}
			expand := &csi.NodeExpandVolumeRequest{VolumeId: volume, VolumePath: path}
			_, err = w.node.NodeExpandVolume(ctx, expand)
			if status.Code(err) == codes.FailedPrecondition {
				t.Log(err)
				end()
				path, end = w.use(t, volume, block)
				expand.VolumePath = path
				_, err = w.node.NodeExpandVolume(ctx, expand)
			}
			if err != nil {
				t.Fatal(err)
			}
			if after := bytesOf(t, path, block); after < before*3/2 {
				t.Errorf("%d bytes, then %d", before, after)
			}
		})
	}
}

func bytesOf(t *testing.T, path string, block bool) int64 {
	t.Helper()
	if !block {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Blocks) * st.Bsize
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// TestVolumesThatNobodyCreated: the config says what they are.
func TestVolumesThatNobodyCreated(t *testing.T) {
	real := newCloud(t, ebs, machinev1alpha1.Cloud{})
	_, err := real.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{
		VolumeId: "vol-1", NodeId: real.id, VolumeCapability: mode(false)})
	if status.Code(err) != codes.NotFound {
		t.Errorf("refuse: %v", err)
	}
	kind := newCloud(t, ebs, machinev1alpha1.Cloud{CreateMissing: true})
	path, end := kind.use(t, "vol-1", false)
	write(t, filepath.Join(path, "file"), "kept")
	end()
	path, end = kind.use(t, "vol-1", false)
	wants(t, filepath.Join(path, "file"), "kept")
	end()
	_, err = kind.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: "vol-2"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a snapshot of nothing: %v", err)
	}
}

// TestOnlyTheNodeThatHasADiskMountsIt: what is not attached is not mounted.
func TestOnlyTheNodeThatHasADiskMountsIt(t *testing.T) {
	w := newCloud(t, ebs, machinev1alpha1.Cloud{})
	volume := w.create(t, "v", false, nil)
	_, err := w.node.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: volume, StagingTargetPath: t.TempDir(), VolumeCapability: mode(false)})
	if status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	_, err = w.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{
		VolumeId: volume, NodeId: "nobody", VolumeCapability: mode(false)})
	if status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	w.attach(t, volume, false)
	if _, err := w.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: volume}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("deleted while it is attached: %v", err)
	}
}
