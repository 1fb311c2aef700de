package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	core "github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

func TestNamespacesOfStartsThatWereCutShortAreRemoved(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	dir := filepath.Join(n.cfg.State, "io.containerd.grpc.v1.cri/netns")
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Fatalf("%d network namespaces of one pod", len(entries))
	}
	// One that was mounted, and one that was not.
	mounted, bare := filepath.Join(dir, "cni-mounted"), filepath.Join(dir, "cni-bare")
	for _, path := range []string{mounted, bare} {
		must(t, os.WriteFile(path, nil, 0o600))
	}
	must(t, unix.Mount("/proc/self/ns/net", mounted, "none", unix.MS_BIND, ""))

	n.stop()
	n.run()
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 1 || left[0].Name() != entries[0].Name() {
		t.Errorf("have %v, want %v", left, entries)
	}
	c := p.runContainer("late", "sleep 1d", nil)
	if got := n.exec(c, "echo works"); got != "works" {
		t.Errorf("a container in the pod that was there: %q", got)
	}
}

func TestLeasesOfWhatWasBegunAreDropped(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"), 0o600, nil)
	must(t, err)
	defer db.Close()
	store := metadata.NewDB(db, nil, nil)
	must(t, store.Init(t.Context()))
	manager, sandboxes := metadata.NewLeaseManager(store), metadata.NewSandboxStore(store)
	ctx := namespaces.WithNamespace(t.Context(), namespace)
	known, unknown := strings.Repeat("ab", sandboxIDSize), strings.Repeat("cd", sandboxIDSize)
	_, err = sandboxes.Create(ctx, core.Sandbox{ID: known, Runtime: core.RuntimeOpts{Name: "runc"}})
	must(t, err)
	for _, id := range []string{known, unknown, "pull"} {
		_, err := manager.Create(ctx, leases.WithID(id), leases.WithExpiration(time.Hour))
		must(t, err)
	}
	_, err = manager.Create(ctx, leases.WithID("adoption"), leases.WithExpiration(time.Hour), leases.WithLabel(adoptionLabel, "now"))
	must(t, err)

	must(t, dropLeases(t.Context(), manager, sandboxes))
	var left []string
	all, err := manager.List(ctx)
	must(t, err)
	for _, lease := range all {
		left = append(left, lease.ID)
	}
	if slices.Sort(left); !slices.Equal(left, []string{known, "pull"}) {
		t.Errorf("have %v", left)
	}
}
