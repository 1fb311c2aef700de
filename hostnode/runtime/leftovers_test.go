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
	for _, id := range []string{known, unknown, "named"} {
		_, err := manager.Create(ctx, leases.WithID(id), leases.WithExpiration(time.Hour))
		must(t, err)
	}
	for range 100 {
		_, err = manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
		must(t, err)
	}

	must(t, dropLeases(t.Context(), manager, sandboxes))
	var left []string
	all, err := manager.List(ctx)
	must(t, err)
	for _, lease := range all {
		left = append(left, lease.ID)
	}
	if slices.Sort(left); !slices.Equal(left, []string{known, "named"}) {
		t.Errorf("have %v", left)
	}
}

func TestContainersWhoseMakingWasCutShortAreRemoved(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	make := func(name string) string {
		id, err := n.cri.CreateContainer(t.Context(), p.id, containerConfig(p.config, name, "sleep 1d"), p.config)
		must(t, err)
		return id
	}
	half, whole, running := make("half"), make("whole"), p.runContainer("running", "sleep 1d", nil)
	n.stop()
	must(t, os.Remove(filepath.Join(n.cfg.Root, "io.containerd.grpc.v1.cri/containers", half, "status")))
	n.run()
	var left []string
	all, err := n.cri.ListContainers(t.Context(), nil)
	must(t, err)
	for _, c := range all {
		left = append(left, c.Id)
	}
	want := []string{whole, running}
	slices.Sort(want)
	if slices.Sort(left); !slices.Equal(left, want) {
		t.Errorf("have %v, want %v", left, want)
	}
	must(t, n.cri.StartContainer(t.Context(), whole))
	// The name is free again.
	if got := n.exec(p.runContainer("half", "sleep 1d", nil), "echo works"); got != "works" {
		t.Errorf("the next container of the name: %q", got)
	}
}
