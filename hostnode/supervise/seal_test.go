package supervise

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// refusalOf an operation, with its help.
func refusalOf(t *testing.T, err error) string {
	t.Helper()
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("have %v, want a refusal", err)
	}
	return refusal.Error() + "\n" + refusal.Help
}

func wants(t *testing.T, got string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
}

func TestAStoppedClustersEtcdIsSealed(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	c := testCluster("svt-seal", 0)
	create(t, c)
	dir := p.etcdDir(c.Name, c.Name+"-control-plane")
	db := filepath.Join(dir, "member", "snap", "db")
	if err := os.MkdirAll(filepath.Dir(db), 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(db, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func() error {
		_, err := Start(t.Context(), c.Name, StartOptions{})
		return err
	}
	stop := func() {
		t.Helper()
		if err := Stop(t.Context(), c.Name, StopOptions{Now: true}); err != nil {
			t.Fatal(err)
		}
	}
	put("what was written")
	stop()
	for _, damage := range []string{"what was writtem", "what was", ""} {
		put(damage)
		wants(t, refusalOf(t, start()), "etcd's data is damaged: "+db, "put "+db+" back", "rm "+p.sums(c.Name, c.Name+"-control-plane"))
		if info := describe(t, c.Name); info.State != Damaged || !strings.Contains(info.Trouble, db) || info.Mend == "" {
			t.Errorf("have %+v", info)
		}
		stop() // it is fine, and takes no damage for the truth
		_, err := CreateSnapshot(t.Context(), SnapshotOptions{Cluster: c.Name, Name: "svt-seal"})
		wants(t, refusalOf(t, err), "etcd's data is damaged: "+db)
	}
	if err := os.Remove(db); err != nil {
		t.Fatal(err)
	}
	wants(t, refusalOf(t, start()), db)

	put("what was written") // the mend
	if err := start(); err != nil {
		t.Fatal(err)
	}
	if info := describe(t, c.Name); info.State != Running || info.Trouble != "" {
		t.Errorf("have %+v", info)
	}
	if exists(p.sums(c.Name, c.Name+"-control-plane")) {
		t.Error("a running cluster is sealed")
	}
	put("what was written since")
	stop()
	if err := start(); err != nil {
		t.Error(err)
	}
}

func TestAStartSaysWhatTheControlPlaneIsInTroubleWith(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	c := testCluster("svt-trouble", 0)
	create(t, c)
	dir := p.etcdDir(c.Name, c.Name+"-control-plane")
	tests := []struct {
		name, told string
		state      State
		want       []string
	}{
		{"damage", `{"file": "/var/lib/etcd/member/wal/1.wal", "damaged": true, "cause": "crc mismatch"}`, Damaged,
			[]string{"etcd's data is damaged: " + dir + "/member/wal/1.wal: crc mismatch", "restore a snapshot"}},
		{"a full disk", `{"file": "/var/lib/etcd/member/wal/0.tmp", "cause": "no space left on device"}`, Stopped,
			[]string{"etcd cannot use " + dir + "/member/wal/0.tmp: no space left on device", "with room on it"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := Stop(t.Context(), c.Name, StopOptions{Now: true}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "trouble"), []byte(tt.told), 0o600); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			_, err := Start(t.Context(), c.Name, StartOptions{})
			if took := time.Since(begin); took > readyBound/4 {
				t.Errorf("it took %v to give up", took)
			}
			wants(t, refusalOf(t, err), tt.want...)
			if info := describe(t, c.Name); info.State != tt.state || !strings.Contains(info.Trouble, dir) {
				t.Errorf("have %+v", info)
			}
			if err := os.Remove(filepath.Join(dir, "trouble")); err != nil {
				t.Fatal(err)
			}
			if info, err := Start(t.Context(), c.Name, StartOptions{}); err != nil || info.State != Running || info.Trouble != "" {
				t.Errorf("have %+v, %v", info, err)
			}
		})
	}
}

func TestAStartOfAClusterInTroubleTriesAgain(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	c := testCluster("svt-again", 0)
	create(t, c)
	dir := p.etcdDir(c.Name, c.Name+"-control-plane")
	told := filepath.Join(dir, "trouble")
	if err := os.WriteFile(told, []byte(`{"file": "/var/lib/etcd", "cause": "no space left on device"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	service := childNamed(t, describe(t, c.Name).Machines[0].PID, "control-plane")
	if err := syscall.Kill(service, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "trouble", func() bool { return describe(t, c.Name).State == Degraded && describe(t, c.Name).Trouble != "" })
	if err := os.Remove(told); err != nil {
		t.Fatal(err)
	}
	if info, err := Start(t.Context(), c.Name, StartOptions{}); err != nil || info.State != Running || info.Trouble != "" {
		t.Errorf("have %+v, %v", info, err)
	}
}

func TestAnEtcdThatDoesNotAnswerIsWaitedForAndThenNamed(t *testing.T) {
	rec := replicatedRecord(t)
	rec.Cluster.EtcdServers = []string{"https://192.0.2.7:2379", "https://192.0.2.8:2379"}
	p := Paths{StateDir: t.TempDir(), RunDir: t.TempDir()}
	late := errors.New("the API server is not ready after 2m0s")
	if err := errors.Join(p.outvoted(rec), p.unanswered(rec)); err != nil {
		t.Fatal(err)
	}
	if err := p.crashed(rec, late); !errors.Is(err, late) {
		t.Error(err)
	}

	for _, m := range rec.Machines {
		if err := os.MkdirAll(filepath.Dir(p.troubleNote(rec.Cluster.Name, m.Name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := p.note(rec.Cluster.Name, trouble{machine: m.Name, servers: rec.Cluster.EtcdServers, cause: "connection refused"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.outvoted(rec); err != nil {
		t.Errorf("not waited for: %v", err)
	}
	want := []string{"etcd https://192.0.2.7:2379, https://192.0.2.8:2379 does not answer: connection refused", "etcdTLS"}
	wants(t, refusalOf(t, p.unanswered(rec)), want...)
	wants(t, refusalOf(t, p.crashed(rec, late)), want...)
	if err := p.crashed(rec, context.Canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestADamagedMinorityIsToldToBeMadeAnew(t *testing.T) {
	rec := replicatedRecord(t)
	p := Paths{StateDir: t.TempDir(), RunDir: t.TempDir()}
	name := rec.Cluster.Name
	log := func(i int) string {
		return filepath.Join(p.etcdDir(name, rec.Machines[i].Name), "member", "wal", "0.wal")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(i int, text string) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(log(i)), 0o700))
		must(os.WriteFile(log(i), []byte(text), 0o600))
	}
	condemned := func() (all []string) {
		for _, m := range rec.Machines {
			if data, err := os.ReadFile(p.condemned(name, m.Name)); err == nil {
				all = append(all, m.Name+" "+string(data))
			}
		}
		return all
	}
	for i := range 3 {
		put(i, "written")
		must(os.WriteFile(filepath.Join(p.etcdDir(name, rec.Machines[i].Name), "formed"), nil, 0o600))
	}
	must(p.seal(rec))

	put(1, "writtem")
	must(p.verify(rec))
	if all := condemned(); len(all) != 1 || !strings.HasPrefix(all[0], "ha-control-plane2 ") || !strings.Contains(all[0], `"/var/lib/etcd/member/wal/0.wal"`) {
		t.Errorf("told: %v", all)
	}
	must(p.unseal(rec))
	must(p.seal(rec)) // a stop before it was made anew
	must(p.verify(rec))
	if len(condemned()) != 1 {
		t.Error("a second start does not know of the damage")
	}
	put(1, "written") // put back
	must(p.verify(rec))
	if all := condemned(); len(all) != 0 {
		t.Errorf("what is as it was is damaged: %v", all)
	}

	put(1, "writtem")
	put(2, "wri")
	wants(t, refusalOf(t, p.verify(rec)), log(1), "put "+log(1)+" back")
	put(2, "written")
	must(os.RemoveAll(filepath.Dir(log(2)))) // lost, as a new machine is
	must(os.Remove(p.sums(name, rec.Machines[2].Name)))
	wants(t, refusalOf(t, p.verify(rec)), log(1))
}

func TestWhatWasSetAsideIsShown(t *testing.T) {
	rec := replicatedRecord(t)
	p := Paths{StateDir: t.TempDir(), RunDir: t.TempDir()}
	dir := filepath.Join(p.etcdDir("ha", "ha-control-plane2"), "damaged")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	why := []byte(`{"file": "/var/lib/etcd/member/snap/db", "damaged": true, "cause": "page 7", "since": "2026-01-02T03:04:05Z"}`)
	if err := os.WriteFile(filepath.Join(dir, "trouble.json"), why, 0o600); err != nil {
		t.Fatal(err)
	}
	info := p.describe(rec)
	for i, m := range info.Machines {
		if (m.SetAside != nil) != (i == 1) {
			t.Errorf("%s: %+v", m.Name, m.SetAside)
		}
	}
	if a := info.Machines[1].SetAside; a.Dir != dir || a.Since.Year() != 2026 || !strings.Contains(a.Cause, filepath.Dir(dir)+"/member/snap/db: page 7") {
		t.Errorf("have %+v", a)
	}
	if info.State != Stopped || info.Trouble != "" {
		t.Errorf("what is over is trouble: %+v", info)
	}
}
