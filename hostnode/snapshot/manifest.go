package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// format is what this release writes and the most that it reads. It goes up
// when an older release would misread a snapshot.
const format = 1

// Files of a snapshot. Everything else is in PKIDir or EtcDir.
const (
	manifestFile = "snapshot.json"
	// EtcdFile is etcd's own snapshot, RecordFile the cluster's record.
	EtcdFile   = "etcd.db"
	RecordFile = "cluster.json"
	// PKIDir is the cluster's directory of that name; EtcDir has files of the
	// user's that the control plane reads.
	PKIDir = "pki"
	EtcDir = "etc"
)

// Facts that a caller may branch on.
var (
	ErrNotFound = errors.New("no such snapshot")
	ErrExists   = errors.New("the snapshot exists already")
	// ErrNewer says that a newer release made the snapshot.
	ErrNewer = errors.New("made by a newer skiff")
	// ErrDamaged says that a snapshot or its file is not as it was made.
	ErrDamaged = errors.New("damaged")
)

// Manifest describes a snapshot.
type Manifest struct {
	Format  int       `json:"format"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	// Version of the skiff that made it.
	Version string `json:"version"`
	// Cluster and ClusterID are of the cluster that it was taken of.
	Cluster   string `json:"cluster"`
	ClusterID string `json:"clusterID"`
	// Nodes is how many the cluster had.
	Nodes int  `json:"nodes"`
	Etcd  Etcd `json:"etcd"`
	// Bytes is the size of all Files.
	Bytes int64  `json:"bytes"`
	Files []File `json:"files"`
}

// Etcd describes what a snapshot holds of it.
type Etcd struct {
	Revision int64  `json:"revision"`
	Keys     int    `json:"keys"`
	Hash     uint32 `json:"hash"`
}

// File of a snapshot; all of them are root's alone.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// ValidateName refuses what can be no snapshot before it becomes part of a
// path.
func ValidateName(name string) error {
	if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
		return fmt.Errorf("snapshot name %q: want lower-case letters, digits, \"-\" and \".\", with a letter or digit at both ends", name)
	}
	if len(name) > 100 {
		return fmt.Errorf("snapshot name %q: longer than 100 characters", name)
	}
	return nil
}

// validate refuses a manifest that no release of ours writes.
func (m *Manifest) validate() error {
	if m.Format > format {
		return fmt.Errorf("%w: its format is %d, this one reads up to %d", ErrNewer, m.Format, format)
	}
	if m.Format < 1 {
		return fmt.Errorf("%w: its format is %d", ErrDamaged, m.Format)
	}
	if err := ValidateName(m.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	seen, total := map[string]bool{}, int64(0)
	for _, f := range m.Files {
		if !validPath(f.Path) || seen[f.Path] || f.Size < 0 {
			return fmt.Errorf("%w: it lists a file %q of %d bytes", ErrDamaged, f.Path, f.Size)
		}
		seen[f.Path] = true
		total += f.Size
	}
	for _, name := range []string{EtcdFile, RecordFile} {
		if !seen[name] {
			return fmt.Errorf("%w: it has no %s", ErrDamaged, name)
		}
	}
	if total != m.Bytes || total < 0 {
		return fmt.Errorf("%w: it lists %d bytes and says %d", ErrDamaged, total, m.Bytes)
	}
	return nil
}

// validPath says whether a file of a snapshot may have that path: one of the
// two, or a plain name in one of the two directories.
func validPath(p string) bool {
	if p == EtcdFile || p == RecordFile {
		return true
	}
	dir, name := path.Split(p)
	return fs.ValidPath(p) && (dir == PKIDir+"/" || dir == EtcDir+"/") && !strings.HasPrefix(name, ".") && len(name) <= 255 && !strings.ContainsAny(name, "\\\x00")
}
