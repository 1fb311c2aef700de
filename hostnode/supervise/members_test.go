package supervise

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// threeControlPlanes is a cluster whose etcd has three members.
func threeControlPlanes(name string) *cluster.Cluster {
	c := &cluster.Cluster{Name: name, Nodes: []cluster.Node{{}, {}, {}}}
	cluster.SetDefaults(c)
	return c
}

// memberFiles are the same file of each member.
func memberFiles(t *testing.T, c *cluster.Cluster, file string) []string {
	t.Helper()
	var files []string
	for _, n := range c.Nodes {
		files = append(files, filepath.Join(testPaths(t).etcdDir(c.Name, n.Name), file))
	}
	return files
}

// setValues gives each member's stand-in its own database.
func setValues(t *testing.T, c *cluster.Cluster, values ...string) {
	t.Helper()
	for i, file := range memberFiles(t, c, "value") {
		if err := os.WriteFile(file, []byte(values[i]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func values(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	var all []string
	for _, file := range memberFiles(t, c, "value") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(data))
	}
	return all
}

// expectMembers says that all have a value, and that each knows that the
// others have it.
func expectMembers(t *testing.T, c *cluster.Cluster, want string) {
	t.Helper()
	if got := values(t, c); !slices.Equal(got, []string{want, want, want}) {
		t.Errorf("members of %s have %q, want %q", c.Name, got, want)
	}
	for _, file := range memberFiles(t, c, filepath.Base(machine.EtcdFormedFile)) {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}

func TestASnapshotOfSeveralControlPlanesIsOfAllAndForAll(t *testing.T) {
	needRoot(t)
	c := threeControlPlanes("svt-three")
	create(t, c)
	restore := func(t *testing.T, name string) {
		t.Helper()
		setValues(t, c, "later", "later", "later")
		info, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: name, Now: true})
		if err != nil {
			t.Fatal(err)
		}
		if info.State != Running || !serves(info) {
			t.Errorf("%+v", info)
		}
	}
	t.Run("that run", func(t *testing.T) {
		setValues(t, c, "a", "c", "b")
		restore(t, save(t, c.Name, "svt-three-run").Name)
		expectMembers(t, c, "c")
	})
	t.Run("that are stopped", func(t *testing.T) {
		for _, file := range memberFiles(t, c, "member/wal/file") {
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("as it was"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := Stop(t.Context(), c.Name, StopOptions{Now: true}); err != nil {
			t.Fatal(err)
		}
		setValues(t, c, "d", "e", "f")
		restored := save(t, c.Name, "svt-three-stop")
		files := memberFiles(t, c, "member/wal/file")
		change := func(i int) {
			if err := os.WriteFile(files[i], []byte("as it Was"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		change(2) // and the two others are a majority
		without := save(t, c.Name, "svt-three-damaged")
		change(0)
		_, err := CreateSnapshot(t.Context(), SnapshotOptions{Cluster: c.Name})
		var refusal *Refusal
		if !errors.As(err, &refusal) || !strings.Contains(err.Error(), files[0]) || refusal.Help == "" {
			t.Errorf("with one that is whole: %v", err)
		}
		restore(t, restored.Name)
		expectMembers(t, c, "f")
		restore(t, without.Name)
		expectMembers(t, c, "e")
	})
	t.Run("makes another cluster of as many", func(t *testing.T) {
		m := save(t, c.Name, "svt-three-other")
		other := threeControlPlanes("svt-three2")
		removeAfter(t, other.Name)
		info, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: m.Name, Cluster: other.Name})
		if err != nil {
			t.Fatal(err)
		}
		if !serves(info) || len(info.Machines) != 3 {
			t.Errorf("%+v", info)
		}
		expectMembers(t, other, "e")
	})
	t.Run("is restored in all or in none, wherever that is killed", func(t *testing.T) {
		setValues(t, c, "saved", "saved", "saved")
		save(t, c.Name, c.Name+kept)
		for after := range moments(400*time.Millisecond, 40*time.Millisecond) {
			if _, err := Start(t.Context(), c.Name, StartOptions{}); err != nil {
				t.Fatal(err)
			}
			setValues(t, c, "now", "now", "now")
			killed(t, after, nil, "restore", c.Name)
			info, err := Start(t.Context(), c.Name, StartOptions{})
			if err != nil {
				t.Fatalf("killed after %v: start: %v", after, err)
			}
			got := values(t, c)
			if !slices.Equal(got, []string{"saved", "saved", "saved"}) && !slices.Equal(got, []string{"now", "now", "now"}) {
				t.Errorf("killed after %v: members have %q", after, got)
			}
			t.Logf("killed after %v: %s", after, got[0])
			if !serves(info) || exists(testPaths(t).replaced(c.Name)) {
				t.Errorf("killed after %v: something half-made is there", after)
			}
		}
	})
}
