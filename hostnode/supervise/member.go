package supervise

import (
	"fmt"
	"os"
	"path/filepath"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// memberLost says that the etcd member of machine i has lost its data, or has
// never had any, while others hold the cluster's: those that were once
// complete say so by a file. Without any such file nothing was ever
// acknowledged, and all start as new ones.
func memberLost(dir string, rec *record, i int) bool {
	if len(rec.peers()) == 0 || len(rec.Cluster.EtcdServers) > 0 {
		return false
	}
	if _, err := os.Stat(filepath.Join(etcdDir(dir, rec.Machines[i].Name), "member", "wal")); err == nil {
		return false
	}
	for j, m := range rec.Machines {
		if _, err := os.Stat(filepath.Join(etcdDir(dir, m.Name), filepath.Base(machine.EtcdFormedFile))); err == nil && j != i {
			return true
		}
	}
	return false
}

// etcdDir is the data directory of a machine's etcd on the host.
func etcdDir(dir, name string) string { return filepath.Join(dir, "machines", name, machine.EtcdDir) }

// prepareMember makes the directory of a replicated control plane anew when it
// is gone, and tells the machine whether its member of etcd is to join.
func (r *room) prepareMember(name string) error {
	if len(r.rec.peers()) == 0 {
		return nil
	}
	r.preparing.Lock()
	defer r.preparing.Unlock()
	dir := r.paths.Cluster(r.rec.Cluster.Name)
	for i, m := range r.rec.Machines {
		if m.Name != name || m.Role != cluster.ControlPlaneRole {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "machines", name, "var", "lib")); err == nil {
			return writeConfigurations(dir, r.rec, i, r.host)
		}
		r.log.Warn("machine's directory is gone, and made anew", "machine", name)
		if err := fillMachine(dir, r.rec, i, r.host); err != nil {
			return fmt.Errorf("make directory of machine %s: %w", name, err)
		}
		if err := ensureCredentials(dir, r.rec); err != nil {
			return fmt.Errorf("make certificates of machine %s: %w", name, err)
		}
	}
	return nil
}
