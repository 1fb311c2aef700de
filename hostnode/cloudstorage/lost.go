package cloudstorage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-k8s/skiff/hostnode/loopdevice"
)

// Lost says that what is behind a mounted volume is no longer where it was.
type Lost struct {
	// Path is the directory or the file of the volume.
	Path string
	// Replaced: there is another one at Path, and what is mounted is not it.
	// Mounting the volume anew mends that.
	Replaced bool
}

func (l *Lost) Error() string {
	if l.Replaced {
		return l.Path + " is not what is mounted any more"
	}
	return l.Path + " does not exist"
}

// Lost looks for what is behind a volume that is mounted, or a device, at a
// path; nil: it is there. What cannot be looked at is not called lost.
func (n *Node) Lost(id, at string) *Lost {
	d := n.driver
	r, err := d.store.find(volumes, id)
	if err != nil {
		return nil
	}
	if r == nil {
		return &Lost{Path: d.store.path(volumes, id)}
	}
	if r.onDisk() {
		return lostFrom(d.disk(id), at, r.shows)
	}
	return lostFrom(filepath.Join(d.store.path(volumes, id), dataDir), at, r.shows)
}

// shows tells whether what is at a path is a volume's directory or file.
func (r *record) shows(have, source *syscall.Stat_t, file string) bool {
	switch {
	case r.Block:
		return backs(have.Rdev, file)
	case r.Image:
		return backs(have.Dev, file)
	case have.Dev == source.Dev && have.Ino == source.Ino:
		return true
	default:
		// Of a shared volume a directory may be mounted.
		return r.Shared && have.Nlink > 0
	}
}

// backs doubts no device that cannot be looked at.
func backs(device uint64, file string) bool {
	is, err := loopdevice.Backs(device, file)
	return err != nil || is
}

// LostDirectory is Lost for a directory that is mounted elsewhere.
func LostDirectory(source, at string) *Lost {
	return lostFrom(source, at, (&record{}).shows)
}

// lostFrom compares what is at a path with its source. Nothing at the path is
// mounted anew by whoever misses it.
func lostFrom(source, at string, shows func(have, source *syscall.Stat_t, file string) bool) *Lost {
	want, err := stat(source)
	if missing(err) {
		return &Lost{Path: source}
	}
	have, atErr := stat(at)
	if err != nil || atErr != nil || shows(have, want, source) {
		return nil
	}
	return &Lost{Path: source, Replaced: true}
}

func stat(path string) (*syscall.Stat_t, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return st, nil
}

// renew takes down what is mounted at a path of a volume that was replaced, so
// that it can be mounted anew. A volume that is gone is an error.
func (n *Node) renew(id, at string) error {
	is, err := mounted(at)
	if err != nil || !is {
		return internal("mount of volume "+id, err)
	}
	switch l := n.Lost(id, at); {
	case l == nil:
		return nil
	case !l.Replaced:
		return status.Errorf(codes.FailedPrecondition, "volume %s: %v", id, l)
	}
	// Whoever uses the old one keeps it: theirs are mounts of their own.
	return internal("unmount what volume "+id+" was", unmount(at))
}

// NodeGetVolumeHealth says what is wrong with a volume that is used here.
func (n *Node) NodeGetVolumeHealth(_ context.Context, req *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	id := req.GetVolumeId()
	if err := required("volume_id", id); err != nil {
		return nil, err
	}
	at := req.GetVolumePublishPath()
	if at == "" {
		at = req.GetStagingTargetPath()
	}
	health := &csi.VolumeHealth{VolumeId: id}
	if l := n.Lost(id, at); l != nil {
		entry := &csi.VolumeHealth_VolumeHealthEntry{Status: csi.VolumeHealthErrorType_DATA_LOSS, Reason: "BackingMissing", Message: l.Error()}
		if l.Replaced {
			entry.Status, entry.Reason = csi.VolumeHealthErrorType_INACCESSIBLE, "BackingReplaced"
		}
		health.HealthStatuses = append(health.HealthStatuses, entry)
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
}
