package namespaces

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// initProgram is built once, by TestMain.
var initProgram string

// pureEnv tells the test program that it runs where cgroup2 is all there is.
const pureEnv = "SKIFF_TEST_PURE_CGROUP2"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "skiff-namespaces")
	if err != nil {
		panic(err)
	}
	if os.Getenv(pureEnv) != "" {
		// Our mount namespace is our own: take the v1 trees out of it.
		err := errors.Join(unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH), unix.Mount("none", "/sys/fs/cgroup", "cgroup2", 0, ""))
		if err != nil {
			panic(err)
		}
	}
	initProgram = filepath.Join(dir, "skiff-init")
	build := exec.Command("go", "build", "-o", initProgram, "github.com/skiff-k8s/skiff/cmd/skiff-init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build skiff-init: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// stand is a machine that a test starts.
type stand struct {
	Machine
	dir string
}

// newStand prepares a machine with shell scripts as services.
func newStand(t *testing.T, name string, scripts ...string) *stand {
	t.Helper()
	needRoot(t)
	layout, err := Layout()
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{dir: t.TempDir()}
	for _, d := range []string{"root", "var/log", "libexec"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	output, err := os.Create(filepath.Join(s.dir, "init.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			data, _ := os.ReadFile(output.Name())
			t.Logf("init: %s", data)
		}
		output.Close()
	})
	path := "skiff-test/" + name
	if err := layout.Ensure(path, Limits{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := layout.Remove(ctx, path); err != nil {
			t.Error(err)
		}
		layout.RemoveEmpty("skiff-test")
	})
	s.Machine = Machine{
		Init: initProgram, CgroupPath: path, Hierarchies: layout, Netns: newNetns(t, s.dir), Output: output,
		Config: machine.MachineConfiguration{
			Name: name, Cgroups: layout.Machine(path), NewRoot: filepath.Join(s.dir, "root"), LogDir: "/var/log",
			Mounts: []machine.Mount{
				{Source: "/usr", Target: "/usr", Type: "rbind", ReadOnly: true},
				{Source: filepath.Join(s.dir, "var"), Target: "/var", Type: "bind"},
			},
		},
	}
	for i, script := range scripts {
		s.Config.Services = append(s.Config.Services, machine.Service{Name: "s" + strconv.Itoa(i), Args: []string{"/bin/sh", "-c", script}})
	}
	return s
}

// newNetns pins a network namespace in dir.
func newNetns(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "netns")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	err := onDyingThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

func (s *stand) start(t *testing.T) *Process {
	t.Helper()
	p, err := Start(t.Context(), s.Machine)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
			t.Error(err)
		}
		if err := p.Wait(context.Background()); err != nil {
			t.Error(err)
		}
		p.Close()
	})
	return p
}

func (s *stand) log(service string) string {
	data, _ := os.ReadFile(filepath.Join(s.dir, "var/log", service+".log"))
	return string(data)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not even after a minute: %s", what)
		}
	}
}

func TestServicesRestartWithBackoff(t *testing.T) {
	s := newStand(t, "backoff", "date +%s%3N; exit 7")
	s.start(t)
	eventually(t, "six starts", func() bool { return strings.Count(s.log("s0"), "\n") >= 6 })
	var times []int
	for line := range strings.Lines(s.log("s0")) {
		ms, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, ms)
	}
	for i, want := range []int{10, 20, 40, 80, 160} {
		if got := times[i+1] - times[i]; got < want {
			t.Errorf("restart %d came after %d ms, want at least %d", i+1, got, want)
		}
	}
}

func TestSIGTERMStopsServicesInOrder(t *testing.T) {
	s := newStand(t, "stop", "trap 'echo stopping; sleep 0.2; echo stopped; exit 0' TERM; echo up; while :; do sleep 0.01; done")
	p := s.start(t)
	eventually(t, "service up", func() bool { return s.log("s0") == "up\n" })
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.log("s0"); got != "up\nstopping\nstopped\n" {
		t.Errorf("log: %q", got)
	}
}

func TestServicesStopLastFirstEachByItsSignal(t *testing.T) {
	// They share a log: each says what it got, and that its turn is over.
	script := func(name string) string {
		say := func(what string) string { return "echo " + name + " " + what + " >> /var/order" }
		return "trap '" + say("term") + "; sleep 0.2; " + say("gone") + "; exit 0' TERM; trap 'trap \"\" PWR; " + say("power") + "; sleep 0.2; " +
			say("gone") + "; exit 0' PWR; echo up; while :; do sleep 0.01; done"
	}
	s := newStand(t, "order", script("first"), script("second"))
	s.Config.Services[1].StopSignal = int(unix.SIGPWR)
	p := s.start(t)
	eventually(t, "services up", func() bool { return s.log("s0") == "up\n" && s.log("s1") == "up\n" })
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(s.dir, "var/order"))
	if want := "second power\nsecond gone\nfirst term\nfirst gone\n"; string(got) != want {
		t.Errorf("order %q, want %q, %v", got, want, err)
	}
}

func TestAServiceThatDoesNotListenYetIsAskedAgain(t *testing.T) {
	s := newStand(t, "again", "trap '' PWR; echo up; sleep 0.5; trap 'echo power; exit 0' PWR; while :; do sleep 0.01; done")
	s.Config.Services[0].StopSignal = int(unix.SIGPWR)
	p := s.start(t)
	eventually(t, "service up", func() bool { return s.log("s0") == "up\n" })
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.log("s0"); got != "up\npower\n" {
		t.Errorf("log: %q", got)
	}
}

func TestKillingProcess1KillsAll(t *testing.T) {
	s := newStand(t, "kill", "(setsid sleep 1000 &) ; sleep 1000", "sleep 1000")
	p := s.start(t)
	var all []int
	eventually(t, "five processes", func() bool {
		all, _ = s.Hierarchies.Processes(s.CgroupPath)
		return len(all) >= 5
	})
	start := time.Now()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("all dead after %v", time.Since(start))
	for _, pid := range all {
		if q, err := Find(pid, 0); err == nil {
			t.Errorf("process %d lives", pid)
			q.Close()
		}
	}
}

func TestOrphansAreReaped(t *testing.T) {
	s := newStand(t, "reap", "for i in 1 2 3 4 5; do (sleep 0.0$i &) ; done; sleep 0.2; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; sleep 1000")
	s.start(t)
	eventually(t, "a count", func() bool { return s.log("s0") != "" })
	if got := s.log("s0"); got != "0\n" {
		t.Errorf("zombies: %s", got)
	}
}

func TestABootThatFailsSaysWhy(t *testing.T) {
	tests := []struct {
		name   string
		change func(s *stand)
		want   string
	}{
		{"directory on a file", func(s *stand) {
			s.Config.Files = []machine.File{{Path: "/etc/motd", Content: "hello", Mode: 0o644}}
			s.Config.Mounts = append(s.Config.Mounts, machine.Mount{Source: s.dir, Target: "/etc/motd", Type: "bind"})
		}, "mount /etc/motd: not a directory"},
		{"missing source", func(s *stand) {
			s.Config.Mounts = append(s.Config.Mounts, machine.Mount{Source: "/no/such", Target: "/x", Type: "bind"})
		}, "copy mount /no/such: no such file or directory"},
		{"missing namespace", func(s *stand) { s.Netns = "/no/such" }, "open network namespace /no/such"},
		{"missing init", func(s *stand) { s.Init = "/no/such" }, "no such file or directory"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStand(t, "fail"+strconv.Itoa(i))
			tt.change(s)
			p, err := Start(t.Context(), s.Machine)
			if err == nil {
				p.Close()
				t.Fatal("it booted")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v does not say %q", err, tt.want)
			}
		})
	}
}

func TestACancelledStartLeavesNothing(t *testing.T) {
	s := newStand(t, "cancel", "sleep 1000")
	for us := 0; us < 8000; us += 400 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(us)*time.Microsecond)
		p, err := Start(ctx, s.Machine)
		cancel()
		if err == nil {
			_ = p.Signal(unix.SIGKILL)
			_ = p.Wait(t.Context())
			p.Close()
		}
		eventually(t, "no process left", func() bool {
			pids, err := s.Hierarchies.Processes(s.CgroupPath)
			if err != nil {
				t.Fatal(err)
			}
			return len(slices.DeleteFunc(pids, func(pid int) bool { return pid == os.Getpid() })) == 0
		})
	}
}

func TestPropagationGoesWhereItShould(t *testing.T) {
	s := newStand(t, "propagate", "sleep 1000")
	// A shared mount of our own: the host's root may be private.
	shared := filepath.Join(s.dir, "shared")
	if err := os.MkdirAll(filepath.Join(shared, "from-host"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(shared, shared, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(shared, unix.MNT_DETACH) })
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for target, propagation := range map[string]string{"/both": "rshared", "/in": "rslave", "/none": ""} {
		s.Config.Mounts = append(s.Config.Mounts, machine.Mount{Source: shared, Target: target, Type: "rbind", Propagation: propagation})
	}
	p := s.start(t)
	if err := unix.Mount("tmpfs", filepath.Join(shared, "from-host"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(shared, "from-host"), unix.MNT_DETACH) })
	root := fmt.Sprintf("/proc/%d/root", p.PID)
	for dir, want := range map[string]bool{"/both": true, "/in": true, "/none": false} {
		var st unix.Statfs_t
		if err := unix.Statfs(filepath.Join(root, dir, "from-host"), &st); err != nil {
			t.Fatal(err)
		}
		if got := st.Type == unix.TMPFS_MAGIC; got != want {
			t.Errorf("the host's mount is seen in %s: %v, want %v", dir, got, want)
		}
	}
	for _, dir := range []string{"/both", "/in", "/none"} {
		run(t, s, p, "mkdir -p "+dir+"/x"+dir+" && mount -t tmpfs tmpfs "+dir+"/x"+dir)
	}
	for dir, want := range map[string]bool{"/both": true, "/in": false, "/none": false} {
		var st unix.Statfs_t
		if err := unix.Statfs(filepath.Join(shared, "x", dir), &st); err != nil {
			t.Fatal(err)
		}
		if got := st.Type == unix.TMPFS_MAGIC; got != want {
			t.Errorf("the machine's mount in %s is seen on the host: %v, want %v", dir, got, want)
		}
	}
	_ = unix.Unmount(filepath.Join(shared, "x/both"), unix.MNT_DETACH)
}

// run executes a shell command in the machine without moving this process.
func run(t *testing.T, s *stand, p *Process, script string) string {
	t.Helper()
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(p.PID), "-a", "/bin/sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// TestPureCgroup2 runs this package's tests again in a mount namespace where
// the host's cgroup2 tree is the whole layout. Hybrid hosts have few or no
// controllers in it: what is tested is the layout, not the limits.
func TestPureCgroup2(t *testing.T) {
	needRoot(t)
	if os.Getenv(pureEnv) != "" {
		layout, err := Layout()
		if err != nil || !layout.Pure() {
			t.Fatalf("layout %+v, %v", layout, err)
		}
		s := newStand(t, "pure", "grep ^0: /proc/self/cgroup; ls -d /sys/fs/cgroup/init; cat /sys/fs/cgroup/cgroup.procs; sleep 1000")
		s.start(t)
		eventually(t, "a view", func() bool { return strings.Count(s.log("s0"), "\n") >= 2 })
		if got := s.log("s0"); got != "0::/init\n/sys/fs/cgroup/init\n" {
			t.Errorf("the machine sees %q", got)
		}
		return
	}
	restore := keepControllers(t)
	defer restore()
	cmd := exec.Command("unshare", "-m", os.Args[0], "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), pureEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestKillingProcess1KillsAll") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// keepControllers remembers what the host's cgroup2 root delegates, which a
// pure layout makes more of.
func keepControllers(t *testing.T) func() {
	t.Helper()
	layout, err := Layout()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range layout {
		if h.Controllers != "" {
			continue
		}
		file := filepath.Join(h.Mount, "cgroup.subtree_control")
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			after, _ := os.ReadFile(file)
			for _, controller := range strings.Fields(string(after)) {
				if !slices.Contains(strings.Fields(string(before)), controller) {
					if err := os.WriteFile(file, []byte("-"+controller), 0); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}
	t.Skip("the host has no cgroup2 tree")
	return nil
}
