package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/hostnode/snapshot"
)

func removeAfter(t *testing.T, name string) {
	t.Cleanup(func() {
		if err := Delete(context.Background(), name); err != nil && !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}

func TestASnapshotMakesAnotherCluster(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	c := stopCluster("svt-origin")
	info := create(t, c)
	was := identity(t, c.Name)
	setValue(t, c.Name, "one")
	m := save(t, c.Name, "svt-origin")

	t.Run("beside the first, with names and addresses of its own", func(t *testing.T) {
		removeAfter(t, "svt-copy")
		var notes []string
		another, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: m.Name, Cluster: "svt-copy", Progress: func(e Event) {
			if e.Note != "" {
				notes = append(notes, e.Note)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if !serves(another) || !serves(info) {
			t.Error("not both of them serve")
		}
		if data, err := os.ReadFile(valueFile(p, "svt-copy")); string(data) != "one" || err != nil {
			t.Errorf("its database has %q, %v", data, err)
		}
		if another.Machines[1].Name != "svt-copy-worker" || another.PodSubnet == info.PodSubnet || another.ServiceSubnet == info.ServiceSubnet || another.Endpoint == info.Endpoint {
			t.Errorf("%+v", another)
		}
		if !exists(filepath.Join(p.Cluster("svt-copy"), "volumes", "pvc-saved")) {
			t.Error("a volume that the objects have is not there")
		}
		port := another.Cluster.Nodes[1].ExtraPortMappings[0].HostPort
		if port == info.Cluster.Nodes[1].ExtraPortMappings[0].HostPort {
			t.Errorf("both have port %d", port)
		}
		if all := strings.Join(notes, "\n"); !strings.Contains(all, info.PodSubnet+" is taken") || !strings.Contains(all, fmt.Sprintf("this cluster has 127.0.0.1:%d", port)) {
			t.Errorf("the user is told %q", all)
		}
		for _, file := range []string{"ca.crt", "sa.key", "encryption.yaml"} {
			a, errA := os.ReadFile(filepath.Join(p.Cluster(c.Name), "pki", file))
			b, errB := os.ReadFile(filepath.Join(p.Cluster("svt-copy"), "pki", file))
			if !bytes.Equal(a, b) || errors.Join(errA, errB) != nil {
				t.Errorf("%s is another: %v, %v", file, errA, errB)
			}
		}
		if inside(t, c.Name, "svt-origin-worker", "cat /etc/machine-id") == inside(t, "svt-copy", "svt-copy-worker", "cat /etc/machine-id") {
			t.Error("two machines have one id")
		}
		if exists(filepath.Join(p.Cluster("svt-copy"), "relocate.json")) {
			t.Error("the plan is left behind")
		}
		// It is a cluster like others.
		if _, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: m.Name, Cluster: "svt-copy"}); !errors.Is(err, ErrExists) {
			t.Errorf("restored over another: %v", err)
		}
		save(t, "svt-copy", "svt-copy")
		if _, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: "svt-copy", Now: true}); err != nil {
			t.Error(err)
		}
	})
	t.Run("in its place, as it was", func(t *testing.T) {
		if err := Delete(t.Context(), c.Name); err != nil {
			t.Fatal(err)
		}
		if _, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: m.Name}); err != nil {
			t.Fatal(err)
		}
		strip := func(s string) string { // when it was made
			_, rest, _ := strings.Cut(s, " UTC ")
			return rest
		}
		if got := identity(t, c.Name); strip(got) != strip(was) {
			t.Errorf("was\n%s\nis\n%s", was, got)
		}
		if _, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: m.Name, Now: true}); err != nil {
			t.Errorf("it is not the cluster that it was: %v", err)
		}
	})
	t.Run("one that cannot be leaves nothing", func(t *testing.T) {
		before := inventory()
		data, err := os.ReadFile(filepath.Join(p.Snapshots(), m.Name, snapshot.EtcdFile))
		if err != nil || len(data) == 0 {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, err = RestoreSnapshot(ctx, RestoreOptions{Snapshot: m.Name, Cluster: "svt-none", Progress: func(e Event) {
			if e.Step == StepMachines {
				cancel()
			}
		}})
		if err == nil {
			t.Error("was not interrupted")
		}
		if left := difference(before, inventory()); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
}

func TestWhatARelocationSays(t *testing.T) {
	rec := plannedRecord(t)
	to := *rec
	to.Cluster.Name, to.Machines = "try", nil
	for _, m := range rec.Machines {
		m.Name = "try" + strings.TrimPrefix(m.Name, "dev")
		m.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.250.0.0/24")}
		to.Machines = append(to.Machines, m)
	}
	to.Cluster.Networking.PodSubnet = "10.250.0.0/16"
	r, err := (&origin{rec: rec}).relocate(&to)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"nodes":[{"from":"dev-control-plane","to":"try-control-plane","providerID":"skiff://try/try-control-plane","podCIDRs":["10.250.0.0/24"]},{"from":"dev-worker","to":"try-worker","providerID":"skiff://try/try-worker","podCIDRs":["10.250.0.0/24"]}],"ranges":[{"from":"10.244.0.0/16","to":"10.250.0.0/16"}],"serviceCIDRs":["10.96.0.0/16"]}`
	if string(got) != want {
		t.Errorf("have %s", got)
	}
	smaller := to.Cluster
	smaller.Networking.PodSubnet = "10.250.0.0/17"
	if err := (&origin{rec: rec}).roomFor(&smaller); err == nil || !strings.Contains(err.Error(), "10.244.0.0/16") {
		t.Errorf("a smaller range: %v", err)
	}
}

func TestEveryMemberOfAReplicatedEtcdIsRestored(t *testing.T) {
	rec := plannedRecord(t)
	if got := strings.Join(memberArgs(rec, []string{"/a"}), " "); got != "--data-dir /a" {
		t.Errorf("alone: %s", got)
	}
	rec.Machines[1].Role = rec.Machines[0].Role
	want := "--member dev-control-plane=https://172.30.0.10:2380=/a --member dev-worker=https://172.30.0.11:2380=/b"
	if got := strings.Join(memberArgs(rec, []string{"/a", "/b"}), " "); got != want {
		t.Errorf("two: %s", got)
	}
}

func TestASnapshotOfALaterKubernetesIsRefused(t *testing.T) {
	for _, tt := range []struct {
		theirs, ours string
		refused      bool
	}{
		{"v1.37.2+skiff", "v1.37.2+skiff", false}, {"v1.37.9+skiff", "v1.37.2+skiff", false}, {"v1.36.0", "v1.37.2", false},
		{"v1.38.0+skiff", "v1.37.2+skiff", true}, {"v2.0.0", "v1.37.2", true}, {"devel", "v1.37.2", false}, {"v1.38.0", "", false},
	} {
		err := (&origin{manifest: &snapshot.Manifest{Name: "one", Version: tt.theirs}}).readableBy(tt.ours)
		if errors.Is(err, snapshot.ErrNewer) != tt.refused {
			t.Errorf("%s by %s: %v", tt.theirs, tt.ours, err)
		}
	}
}
