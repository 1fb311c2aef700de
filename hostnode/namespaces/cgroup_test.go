package namespaces

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func TestParseLayout(t *testing.T) {
	tests := []struct {
		name, mountinfo string
		want            Hierarchies
		pure            bool
	}{
		{"pure", `30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`, Hierarchies{{Mount: "/sys/fs/cgroup"}}, true},
		{"hybrid as systemd mounts it", `31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:30 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/cpuset rw shared:13 - cgroup cgroup rw,cpuset,clone_children
`, Hierarchies{
			{Mount: "/sys/fs/cgroup/unified"},
			{Mount: "/sys/fs/cgroup/systemd", Controllers: "name=systemd"},
			{Mount: "/sys/fs/cgroup/cpu,cpuacct", Controllers: "cpu,cpuacct"},
			{Mount: "/sys/fs/cgroup/cpuset", Controllers: "cpuset"},
		}, false},
		{"a tree mounted twice counts once", `1 0 0:1 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
2 0 0:1 / /other rw - cgroup cgroup rw,pids
`, Hierarchies{{Mount: "/sys/fs/cgroup/pids", Controllers: "pids"}}, false},
		{"none", "22 27 0:21 / /proc rw,relatime - proc proc rw\n", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := parseLayout(tt.mountinfo)
			if !reflect.DeepEqual(got, tt.want) || got.Pure() != tt.pure {
				t.Errorf("got %+v, pure %v", got, got.Pure())
			}
		})
	}
}

func TestSettings(t *testing.T) {
	limits := Limits{CPU: 2, MemoryBytes: 1<<30 + 5, PIDs: 99}
	tests := []struct {
		controllers string
		want        map[string]string
	}{
		{"cpu,cpuacct", map[string]string{"cpu.cfs_quota_us": "200000"}},
		{"cpuset", map[string]string{}},
		{"memory", map[string]string{"memory.limit_in_bytes": "1073741824"}},
		{"pids", map[string]string{"pids.max": "99"}},
	}
	for _, tt := range tests {
		t.Run(tt.controllers, func(t *testing.T) {
			if got := (Hierarchy{Controllers: tt.controllers}).settings(limits); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	t.Run("cgroup2 with controllers", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte("cpu memory\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"cpu.max": "200000 100000", "memory.max": "1073741824"}
		if got := (Hierarchy{Mount: dir}).settings(limits); !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestFindKnowsAProcessByItsStart(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Find(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := Find(p.PID, p.StartTime+1); !errors.Is(err, ErrGone) {
		t.Errorf("another start time: %v", err)
	}
	again, err := Find(p.PID, p.StartTime)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := again.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !p.ended() {
		t.Error("it is alive after its end")
	}
	if _, err := Find(p.PID, p.StartTime); !errors.Is(err, ErrGone) {
		t.Errorf("after its end: %v", err)
	}
	if err := p.Signal(9); !errors.Is(err, ErrGone) {
		t.Errorf("signal after its end: %v", err)
	}
}

func TestTakeFile(t *testing.T) {
	needRoot(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	w.Close()
	p, err := Find(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	got, err := p.TakeFile(3, "pipe")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := got.WriteString("through"); err != nil {
		t.Fatal(err)
	}
	got.Close()
	_ = r.SetReadDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 16)
	if n, err := r.Read(buf); err != nil || string(buf[:n]) != "through" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}
