package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// role says which of its lives a process of the test program lives:
//
//	""      the one that `go test` started; it starts
//	"init"  process 1 of PID, mount and network namespaces of the tests' own,
//	        which reaps, as skiff-init does in a machine; it starts
//	"test"  the tests; one of them starts
//	"node"  a node process that is killed
//
// So nothing of the tests can reach the host, and "init" sees what is left.
const roleVariable = "SKIFF_RUNTIME_TEST_ROLE"

// cgroupOfRuns begins the names of runs' cgroups; the first process ends them.
const cgroupOfRuns = "/skiff-runtime-test-"

// cgroup is the parent of all pods' cgroups.
var cgroup = cgroupOfRuns + cmpOr(os.Getenv("SKIFF_RUNTIME_TEST_CGROUP"), strconv.Itoa(os.Getpid()))

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		if os.Geteuid() != 0 {
			os.Exit(m.Run()) // every test says why it is skipped
		}
		if err := sweepDeadRuns(); err != nil {
			os.Exit(exitCode(err))
		}
		os.Setenv("SKIFF_RUNTIME_TEST_CGROUP", strconv.Itoa(os.Getpid()))
		os.Exit(enterNamespaces())
	case "init":
		os.Exit(initMain())
	case "node":
		os.Exit(nodeMain())
	default:
		os.Exit(m.Run())
	}
}

// sweepDeadRuns removes the cgroups of runs that were killed: who would have
// removed them has died with the run.
func sweepDeadRuns() error {
	layout, err := namespaces.Layout()
	if err != nil {
		return err
	}
	for _, h := range layout {
		dirs, err := filepath.Glob(h.Mount + cgroupOfRuns + "*")
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			path := strings.TrimPrefix(dir, h.Mount)
			if _, err := os.Stat("/proc/" + strings.TrimPrefix(path, cgroupOfRuns)); !errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err := layout.Remove(context.Background(), path); err != nil {
				return err
			}
		}
	}
	return nil
}

func enterNamespaces() int {
	cmd := self("init")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	return exitCode(cmd.Run())
}

// self is another process of the test program.
func self(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtime tests:", err)
		return 1
	}
	return 0
}

// initMain runs the tests and looks for what they leave.
func initMain() int {
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		loopbackUp(),
	)
	if err != nil {
		return exitCode(err)
	}
	before := mounts()
	cmd := self("test")
	if err := cmd.Start(); err != nil {
		return exitCode(err)
	}
	code := 0
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return exitCode(err)
		}
		if pid == cmd.Process.Pid {
			code = status.ExitStatus()
			break
		}
	}
	left := processes()
	for mount := range mounts() {
		if !before[mount] {
			left = append(left, "mount "+mount)
		}
	}
	left = append(left, removeCgroups()...)
	for _, what := range left {
		fmt.Println("left behind:", what)
		code = max(code, 1)
	}
	return code
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// processes are all but process 1, zombies included.
func processes() []string {
	var left []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if dir == "/proc/1" {
			continue
		}
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue
		}
		// A zombie that is only waiting for us is not left behind.
		if strings.Contains(string(stat), ") Z 1 ") {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		left = append(left, fmt.Sprintf("process %s %s", filepath.Base(dir), strings.ReplaceAll(string(line), "\x00", " ")))
	}
	return left
}

func mounts() map[string]bool {
	all := map[string]bool{}
	data, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 {
			all[fields[1]] = true
		}
	}
	return all
}

// hierarchies are where cgroups are mounted: one directory on pure v2, one a
// controller otherwise.
func hierarchies() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	all, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for n := range all {
		all[n] = filepath.Dir(all[n])
	}
	return all
}

// removeCgroups removes the tests' parent cgroup, and names what is in it.
func removeCgroups() []string {
	var left []string
	for _, hierarchy := range hierarchies() {
		parent := hierarchy + cgroup
		// Pods' own directories are the kubelet's to remove; the tests do it.
		_ = filepath.WalkDir(parent, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != parent {
				left = append(left, "cgroup "+path)
			}
			return nil
		})
		if err := unix.Rmdir(parent); err != nil && !errors.Is(err, os.ErrNotExist) {
			left = append(left, fmt.Sprintf("cgroup %s: %v", parent, err))
		}
	}
	return left
}

// nodeMain is a node process that says "ready" and waits to be killed.
func nodeMain() int {
	var cfg Config
	if err := json.Unmarshal([]byte(os.Getenv("SKIFF_RUNTIME_TEST_CONFIG")), &cfg); err != nil {
		return exitCode(err)
	}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	r, err := Start(contextForNode(), cfg)
	if err != nil {
		return exitCode(err)
	}
	if err := nodeScript(r); err != nil {
		return exitCode(err)
	}
	fmt.Println("ready")
	select {}
}
