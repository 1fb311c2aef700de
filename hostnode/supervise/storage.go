package supervise

import (
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"

	"github.com/skiff-k8s/skiff/hostnode/projectquota"
)

// storageDirs are what a node's ephemeral-storage is, below a machine's
// directory: not where etcd is, which a full node does not stop.
var storageDirs = []string{"var/lib/kubelet", "var/lib/containerd", "var/log", "var/cache", "var/spool", "var/tmp"}

// bytesPerInode is mke2fs's default for a file system of a limit's size.
const bytesPerInode = 16 << 10

func storageField(i int) string { return fmt.Sprintf("nodes[%d].resources.ephemeralStorage", i) }

// limitStorage gives machine i, whose directory is own, the storage that is
// declared; 0 is the host's.
func limitStorage(own string, rec *record, i int, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	err := projectquota.Set(storagePaths(own), preferredProject(rec.ID, rec.Machines[i].Name),
		projectquota.Limit{Bytes: bytes, Inodes: bytes / bytesPerInode})
	if errors.Is(err, projectquota.ErrUnsupported) {
		return &Refusal{Field: storageField(i), Err: err,
			Help: "mount that file system with the option prjquota (ext4 unmounted, once: tune2fs -O project,quota -Q prjquota DEVICE), set SKIFF_STATE_DIR to a directory on one that is, or leave the field out"}
	}
	return err
}

// freeStorage gives back what a machine that is deleted had of the file
// system's quota.
func freeStorage(own string) error { return projectquota.Clear(storagePaths(own)[0]) }

func storagePaths(own string) []string {
	paths := make([]string, len(storageDirs))
	for i, dir := range storageDirs {
		paths[i] = filepath.Join(own, dir)
	}
	return paths
}

// preferredProject is in the upper half of the numbers: people and other
// programs count from 1.
func preferredProject(clusterID, machine string) uint32 {
	sum := fnv.New32a()
	fmt.Fprint(sum, clusterID, "/", machine)
	return 1<<31 | sum.Sum32()>>2
}
