package backup

import (
	"fmt"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/skiff-k8s/skiff/apis/storage"
)

// revisionBump is how far the revisions of a restored etcd begin above those
// that were saved: more than a cluster writes in years, as Kubernetes'
// documentation has it.
const revisionBump = 1_000_000_000

// Member is one of a new etcd.
type Member struct {
	Name, PeerURL string
}

// Alone is the member of an etcd without others.
var Alone = Member{Name: storage.MemberName, PeerURL: storage.PeerURL}

// Restore makes the data directory dir of a member of a new etcd from the
// file that was saved at path. Every member is restored from the same file,
// with the same others; token names the new etcd.
func Restore(path, dir, token string, member Member, others ...Member) error {
	cluster := member.Name + "=" + member.PeerURL
	for _, other := range others {
		cluster += "," + other.Name + "=" + other.PeerURL
	}
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: path, OutputDataDir: dir,
		Name: member.Name, PeerURLs: []string{member.PeerURL}, InitialCluster: cluster, InitialClusterToken: token,
		RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("restore etcd from %s: %w", path, err)
	}
	return nil
}
