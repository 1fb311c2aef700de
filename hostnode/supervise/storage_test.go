package supervise

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/hostnode/projectquota"
)

// TestStorageThatNobodyLimits is about a host without project quotas; with them
// a cluster is tried by hack/test-vm.sh.
func TestStorageThatNobodyLimits(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	t.Setenv(EnvStateDir, dir)
	before := inventory()
	c := testCluster("svt-storage", 1)
	c.Nodes[1].Resources.EphemeralStorage = "1Gi"
	_, err := Create(t.Context(), CreateOptions{Cluster: c})
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok || !errors.Is(err, projectquota.ErrUnsupported) || refusal.Field != "nodes[1].resources.ephemeralStorage" || !strings.Contains(refusal.Help, "prjquota") {
		t.Errorf("%v", err)
	}
	if left := difference(before, inventory()); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestPreferredProjects(t *testing.T) {
	one, two := preferredProject("id", "dev-worker"), preferredProject("id", "dev-worker2")
	if one == two || one>>31 != 1 || one == ^uint32(0) || one != preferredProject("id", "dev-worker") {
		t.Errorf("projects %d and %d", one, two)
	}
}
