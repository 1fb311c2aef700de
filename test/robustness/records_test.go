//go:build robustness

package robustness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// recordKinds are containerd's records of which Pods make some.
var recordKinds = []string{"containers", "leases", "sandboxes", "snapshots"}

// records are those in containerd's database of what Pods have there. A copy of
// the file is read, as containerd holds its lock.
func (n *node) records() (all []string, err error) {
	source, err := os.Open(n.at(filepath.Join(machinev1alpha1.ContainerdRoot, "io.containerd.metadata.v1.bolt/meta.db")))
	if err != nil {
		return nil, err
	}
	defer source.Close()
	copied, err := os.CreateTemp("", "skiff-robustness-*.db")
	if err != nil {
		return nil, err
	}
	defer os.Remove(copied.Name())
	_, err = io.Copy(copied, source)
	if err := errors.Join(err, copied.Close()); err != nil {
		return nil, err
	}
	// A page that is written while it is copied makes bbolt panic: the caller
	// looks again.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read containerd's database: %v", p)
		}
	}()
	db, err := bolt.Open(copied.Name(), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("v1"))
		if bucket != nil {
			bucket = bucket.Bucket([]byte("k8s.io"))
		}
		if bucket == nil {
			return nil
		}
		for _, kind := range recordKinds {
			if b := bucket.Bucket([]byte(kind)); b != nil {
				all = append(all, keys(b, "record "+kind, kind == "snapshots")...)
			}
		}
		return nil
	})
	return all, err
}

// keys of a bucket, or of the buckets in it, without the layers of images: those
// of the host's store appear on a node whenever somebody loads one.
func keys(b *bolt.Bucket, prefix string, deep bool) (all []string) {
	_ = b.ForEach(func(k, v []byte) error {
		if inner := b.Bucket(k); deep && inner != nil {
			all = append(all, keys(inner, prefix+"/"+string(k), false)...)
			return nil
		}
		if !strings.HasPrefix(string(k), "sha256:") {
			all = append(all, prefix+"/"+string(k))
		}
		return nil
	})
	return all
}
