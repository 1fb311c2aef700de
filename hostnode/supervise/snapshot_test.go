package supervise

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/hostnode/snapshot"
)

// kept is how the snapshot of a cluster ends that killed commands are about.
const kept = "-keep"

func saveVerb(name string) error {
	_, err := CreateSnapshot(context.Background(), SnapshotOptions{Cluster: name, Name: name})
	return err
}

func restoreVerb(name, cluster string) error {
	_, err := RestoreSnapshot(context.Background(), RestoreOptions{Snapshot: name + kept, Cluster: cluster, Now: true})
	return err
}

// value is the database of the tool's stand-in.
func valueFile(p Paths, name string) string {
	return filepath.Join(etcdDir(p.Cluster(name), name+"-control-plane"), "value")
}

func setValue(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile(valueFile(testPaths(t), name), []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
}

func expectValue(t *testing.T, name, want string) {
	t.Helper()
	if got, err := os.ReadFile(valueFile(testPaths(t), name)); string(got) != want || err != nil {
		t.Errorf("the database of %s has %q, %v; want %q", name, got, err, want)
	}
}

func save(t *testing.T, cluster, name string) *snapshot.Manifest {
	t.Helper()
	m, err := CreateSnapshot(t.Context(), SnapshotOptions{Cluster: cluster, Name: name, Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := DeleteSnapshot(context.Background(), m.Name); err != nil && !errors.Is(err, snapshot.ErrNotFound) {
			t.Error(err)
		}
	})
	return m
}

func TestARestoreBringsTheClusterBackToTheSnapshot(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	c := stopCluster("svt-snap")
	create(t, c)
	was := identity(t, c.Name)
	volume := filepath.Join(p.Cluster(c.Name), "volumes", "data")
	if err := os.WriteFile(volume, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	// saved is one that the snapshots' objects have.
	saved := filepath.Join(p.Cluster(c.Name), "volumes", "pvc-saved")
	restored := func(t *testing.T, info *Info) {
		t.Helper()
		if got := identity(t, c.Name); got != was || !serves(info) {
			t.Errorf("was\n%s\nis\n%s", was, got)
		}
		if data, err := os.ReadFile(volume); string(data) != "kept" || err != nil {
			t.Errorf("the volume has %q, %v", data, err)
		}
		if exists(p.replaced(c.Name)) {
			t.Error("the old state is still there")
		}
	}

	t.Run("of a cluster that runs", func(t *testing.T) {
		setValue(t, c.Name, "one")
		begin := time.Now()
		m := save(t, c.Name, "svt-one")
		t.Logf("saved in %v", time.Since(begin))
		if m.Cluster != c.Name || m.Nodes != 2 || m.Etcd.Revision != 7 || m.Version != "v1" {
			t.Errorf("%+v", m)
		}
		setValue(t, c.Name, "two")
		var notes []string
		opts := RestoreOptions{Snapshot: "svt-one", Progress: func(e Event) {
			if e.Note != "" {
				notes = append(notes, e.Note)
			}
		}}
		info, err := RestoreSnapshot(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		expectValue(t, c.Name, "one")
		restored(t, info)
		if st, err := os.Stat(saved); err != nil || st.Mode().Perm() != 0o777 {
			t.Errorf("a volume that was gone: %v, %v", st, err)
		}
		if !slices.Contains(notes, "volume pvc-saved was gone: it begins empty") {
			t.Errorf("the user is told %q", notes)
		}
		// The next time it is there, with what is in it.
		if err := os.WriteFile(filepath.Join(saved, "data"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("of a cluster that is stopped", func(t *testing.T) {
		if err := Stop(t.Context(), c.Name, StopOptions{}); err != nil {
			t.Fatal(err)
		}
		setValue(t, c.Name, "three")
		m := save(t, c.Name, "")
		if !strings.HasPrefix(m.Name, "svt-snap-2") {
			t.Errorf("a snapshot without a name is called %s", m.Name)
		}
		setValue(t, c.Name, "four")
		info, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: m.Name})
		if err != nil {
			t.Fatal(err)
		}
		expectValue(t, c.Name, "three")
		restored(t, info)
		if !exists(filepath.Join(saved, "data")) {
			t.Error("what was in a volume is gone")
		}
		if err := os.RemoveAll(saved); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("that does not start is undone", func(t *testing.T) {
		setValue(t, c.Name, "broken")
		m := save(t, c.Name, "svt-broken")
		setValue(t, c.Name, "five")
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := RestoreSnapshot(ctx, RestoreOptions{Snapshot: m.Name})
		if err == nil || strings.Contains(err.Error(), "undo") {
			t.Errorf("%v", err)
		}
		expectValue(t, c.Name, "five")
		restored(t, describe(t, c.Name))
		if exists(saved) {
			t.Error("a volume of the snapshot's is left behind")
		}
	})
	t.Run("that is damaged is refused before anything happens", func(t *testing.T) {
		m := save(t, c.Name, "svt-damaged")
		machines := pids(describe(t, c.Name))
		if err := os.WriteFile(filepath.Join(p.Snapshots(), m.Name, "pki", "ca.key"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: m.Name})
		if !errors.Is(err, snapshot.ErrDamaged) || !strings.Contains(err.Error(), "pki/ca.key") {
			t.Errorf("%v", err)
		}
		for name, pid := range pids(describe(t, c.Name)) {
			if machines[name] != pid {
				t.Errorf("machine %s was restarted", name)
			}
		}
	})
	t.Run("of another cluster of that name is refused", func(t *testing.T) {
		save(t, c.Name, "svt-other")
		if err := Delete(t.Context(), c.Name); err != nil {
			t.Fatal(err)
		}
		create(t, c)
		_, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: "svt-other"})
		var refusal *Refusal
		if !errors.Is(err, ErrExists) || !errors.As(err, &refusal) || !strings.Contains(refusal.Help, "--name") {
			t.Errorf("%v", err)
		}
	})
}

func TestSnapshotsAreRefusedWhereTheyCannotBe(t *testing.T) {
	needRoot(t)
	c := testCluster("svt-norm", 0)
	create(t, c)
	setValue(t, c.Name, "one")
	save(t, c.Name, "svt-norm")
	if _, err := CreateSnapshot(t.Context(), SnapshotOptions{Cluster: c.Name, Name: "svt-norm"}); !errors.Is(err, snapshot.ErrExists) {
		t.Errorf("a second of that name: %v", err)
	}
	if _, err := CreateSnapshot(t.Context(), SnapshotOptions{Cluster: c.Name, Name: "../x"}); err == nil {
		t.Error("a name with a path")
	}
	if _, err := CreateSnapshot(t.Context(), SnapshotOptions{Cluster: "svt-none"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no cluster: %v", err)
	}
	if _, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: "svt-none"}); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("no snapshot: %v", err)
	}
	if err := Pause(t.Context(), c.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateSnapshot(t.Context(), SnapshotOptions{Cluster: c.Name}); !errors.Is(err, ErrPaused) {
		t.Errorf("paused: %v", err)
	}
	if err := Unpause(t.Context(), c.Name); err != nil {
		t.Fatal(err)
	}
	// As if its data were elsewhere.
	p := testPaths(t)
	rec, err := p.readRecord(c.Name)
	if err != nil {
		t.Fatal(err)
	}
	rec.Cluster.EtcdServers = []string{"http://192.0.2.1:2379"}
	if err := writeJSON(p.record(c.Name), rec); err != nil {
		t.Fatal(err)
	}
	_, err = CreateSnapshot(t.Context(), SnapshotOptions{Cluster: c.Name})
	var refusal *Refusal
	if !errors.Is(err, ErrForeignEtcd) || !errors.As(err, &refusal) || refusal.Field != "etcdServers" {
		t.Errorf("etcd elsewhere: %v", err)
	}
}

// killed runs a verb of TestMain's and kills it after a while, unless it is
// faster.
func killed(t *testing.T, after time.Duration, stdin []byte, verb, name string) []byte {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", verb, name)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Stdin = &out, os.Stderr, bytes.NewReader(stdin)
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	_ = cmd.Wait() // killed, or faster
	kill.Stop()
	return out.Bytes()
}

func TestASnapshotCommandMayBeKilledAtAnyStep(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	before := inventory()
	c := stopCluster("svt-snapkill")
	create(t, c)
	was := identity(t, c.Name)
	keep := c.Name + kept
	setValue(t, c.Name, "saved")
	save(t, c.Name, keep)
	var file bytes.Buffer
	if err := ExportSnapshot(t.Context(), keep, &file); err != nil {
		t.Fatal(err)
	}
	for after := range moments(60*time.Millisecond, 4*time.Millisecond) {
		for _, verb := range []string{"save", "import", "unsave"} {
			// The last one takes away what the others made.
			killed(t, after, file.Bytes(), verb, c.Name)
		}
		if cut := killed(t, after/8, nil, "export", keep); len(cut) < file.Len() {
			if m, err := ImportSnapshot(t.Context(), "svt-cut", bytes.NewReader(cut)); !errors.Is(err, snapshot.ErrDamaged) {
				t.Errorf("imported a cut file: %v, %v", m, err)
			}
		}
		if err := DeleteSnapshot(t.Context(), c.Name); err != nil && !errors.Is(err, snapshot.ErrNotFound) {
			t.Fatal(err)
		}
		left, _ := os.ReadDir(p.Snapshots())
		if len(left) != 1 || left[0].Name() != keep {
			t.Fatalf("killed after %v: snapshots left %v", after, left)
		}
	}
	for after := range moments(300*time.Millisecond, 12*time.Millisecond) {
		if _, err := Start(t.Context(), c.Name, StartOptions{}); err != nil {
			t.Fatal(err)
		}
		setValue(t, c.Name, "now")
		killed(t, after, nil, "restore", c.Name)
		info, err := Start(t.Context(), c.Name, StartOptions{})
		if err != nil {
			t.Fatalf("killed after %v: start: %v", after, err)
		}
		value, err := os.ReadFile(valueFile(p, c.Name))
		if err != nil || string(value) != "saved" && string(value) != "now" {
			t.Errorf("killed after %v: the database has %q, %v", after, value, err)
		}
		t.Logf("killed after %v: %s", after, value)
		if exists(p.replaced(c.Name)) {
			t.Errorf("killed after %v: something half-made is there", after)
		}
		if got := identity(t, c.Name); got != was || !serves(info) {
			t.Fatalf("killed after %v: was\n%s\nis\n%s", after, was, got)
		}
	}
	for after := range moments(120*time.Millisecond, 12*time.Millisecond) {
		killed(t, after, nil, "another", c.Name)
		err := Delete(t.Context(), c.Name+"2")
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatalf("killed after %v: delete: %v", after, err)
		}
		if _, err := os.Stat(p.Cluster(c.Name + "2")); err == nil {
			t.Errorf("killed after %v: it is still there", after)
		}
	}
	if _, err := RestoreSnapshot(t.Context(), RestoreOptions{Snapshot: keep, Cluster: c.Name + "2"}); err != nil {
		t.Error(err)
	}
	if err := errors.Join(Delete(t.Context(), c.Name), Delete(t.Context(), c.Name+"2"), DeleteSnapshot(t.Context(), keep)); err != nil {
		t.Fatal(err)
	}
	if left := difference(before, inventory()); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestAFullDiskIsOneErrorAndLeavesNothing(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	c := testCluster("svt-full", 0)
	create(t, c)
	setValue(t, c.Name, strings.Repeat("x", 1<<20))
	m := save(t, c.Name, "svt-full")
	var file bytes.Buffer
	if err := ExportSnapshot(t.Context(), m.Name, &file); err != nil {
		t.Fatal(err)
	}
	small := func(t *testing.T, dir string) {
		t.Helper()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
	}
	refused := func(t *testing.T, err error) {
		t.Helper()
		var refusal *Refusal
		if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(refusal.Help, "make room") {
			t.Errorf("%v", err)
		}
	}
	t.Run("of the snapshots", func(t *testing.T) {
		small(t, p.Snapshots())
		_, err := CreateSnapshot(t.Context(), SnapshotOptions{Cluster: c.Name, Name: "svt-none"})
		refused(t, err)
		_, err = ImportSnapshot(t.Context(), "svt-none", bytes.NewReader(file.Bytes()))
		refused(t, err)
		if left, err := os.ReadDir(p.Snapshots()); len(left) > 0 || err != nil {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}
