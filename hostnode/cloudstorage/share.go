package cloudstorage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Share is a directory of a shared volume.
type Share struct {
	// ID is the volume's. Directory is one in it, with slashes; empty: all of it.
	ID, Directory string
	ReadOnly      bool
	// Options are mount options.
	Options []string
}

// MountShare shows a directory of a shared volume at target. One that is not
// there is made where the cloud makes volumes that nobody has created.
func (n *Node) MountShare(s Share, target string) error {
	r, err := n.driver.find(s.ID, &csi.VolumeCapability{})
	if err != nil {
		return err
	}
	if err := n.renew(s.ID, target); err != nil {
		return err
	}
	source, err := n.driver.directory(r, s.Directory)
	if err != nil {
		return err
	}
	defer source.Close()
	options := s.Options
	if s.ReadOnly {
		options = append([]string{"ro"}, options...)
	}
	// By the open file: nobody can put a link into its way.
	return internal("mount volume "+s.ID, bind(fmt.Sprintf("/proc/self/fd/%d", source.Fd()), target, options))
}

// directory opens a directory of a volume. What users have put into the volume
// does not lead out of it.
func (d *Driver) directory(r *record, name string) (*os.File, error) {
	root, err := os.OpenRoot(filepath.Join(d.store.path(volumes, r.ID), dataDir))
	if err != nil {
		return nil, internal("volume "+r.ID, err)
	}
	defer root.Close()
	if name = strings.TrimPrefix(path.Clean("/"+name), "/"); name == "" {
		name = "."
	}
	if _, err := root.Stat(name); missing(err) && d.cloud.CreateMissing {
		if err := errors.Join(root.MkdirAll(name, d.rootMode()), root.Chmod(name, d.rootMode())); err != nil {
			return nil, internal("directory "+name+" of volume "+r.ID, err)
		}
	}
	f, err := root.Open(name)
	if missing(err) {
		return nil, status.Errorf(codes.NotFound, "volume %s has no directory %s", r.ID, name)
	}
	return f, internal("directory "+name+" of volume "+r.ID, err)
}
