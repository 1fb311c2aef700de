package arena

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/test/bench/cgroup"
)

// Root is the cgroup of everything in the arena.
const Root = "/skiff-bench-dataplane"

// insideEnv tells the program that it runs inside; its value is a directory
// for files that go with the run.
const insideEnv = "SKIFF_BENCH_ARENA"

// Enclose runs this program again in network, mount and process namespaces of
// its own, and removes afterwards what these do not take with them. Inside,
// it returns the directory for files at once.
func Enclose(ctx context.Context) (string, error) {
	if dir := os.Getenv(insideEnv); dir != "" {
		return dir, prepare()
	}
	return "", enclose(ctx)
}

func enclose(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "skiff-arena")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cgroup.Remove(Root), os.RemoveAll(dir)) }()
	if err := cgroup.Remove(Root); err != nil {
		return fmt.Errorf("another run goes on, or its processes do: %w", err)
	}
	// When it is killed, every process of the arena is.
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // see prepare
	}
	// The parent's death must not be this thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Everything inside inherits this thread's priority: what others do on the
	// machine is not to be measured.
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
		return fmt.Errorf("raise priority: %w", err)
	}
	err = cmd.Run()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// prepare gives the namespaces what programs look for.
func prepare() error {
	for _, m := range []struct {
		what, target, kind string
		flags              uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "proc", 0},
		{"tmpfs", "/run", "tmpfs", 0},
	} {
		if err := unix.Mount(m.what, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	// Where the kernel gives every session the same share, a priority counts
	// within the session alone, and the session has one of its own.
	err := os.WriteFile("/proc/self/autogroup", []byte("-20"), 0o644)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("raise the session's priority: %w", err)
	}
	return nil
}
