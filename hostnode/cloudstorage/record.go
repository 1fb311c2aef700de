package cloudstorage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// record is a volume or a snapshot as its file says it.
type record struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Bytes is the size that was asked for.
	Bytes int64 `json:"bytes"`
	// Block says that the volume is a device; Image that it is a file with a
	// file system. Otherwise it is a directory.
	Block bool `json:"block,omitempty"`
	Image bool `json:"image,omitempty"`
	// Shared says that several nodes write to it.
	Shared bool `json:"shared,omitempty"`
	// Zone is where the volume is; empty: everywhere.
	Zone string `json:"zone,omitempty"`
	// Source is the id of the snapshot or the volume that it began as.
	Source   string       `json:"source,omitempty"`
	Attached []attachment `json:"attached,omitempty"`
	Created  time.Time    `json:"created"`
}

// attachment is one node that has the volume.
type attachment struct {
	Node     string `json:"node"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// onDisk tells whether the volume is a file.
func (r *record) onDisk() bool { return r.Block || r.Image }

func (r *record) attachedTo(node string) bool {
	return slices.ContainsFunc(r.Attached, func(a attachment) bool { return a.Node == node })
}

// nodeRecord is what a node says of itself.
type nodeRecord struct {
	ID    string `json:"id"`
	Zone  string `json:"zone,omitempty"`
	Limit int    `json:"limit,omitempty"`
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON publishes a file by renaming it; what is aside of a crash is
// written over.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	aside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(aside, data, 0o600); err != nil {
		return err
	}
	return os.Rename(aside, path)
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
