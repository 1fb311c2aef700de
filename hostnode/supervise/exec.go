package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// KillNode ends a machine as a power cut does: every process in it is gone at
// once, and the supervisor starts it again.
func KillNode(ctx context.Context, name, machine string) error {
	if err := Ensure(ctx, name); err != nil {
		return err
	}
	p, err := DefaultPaths()
	if err != nil {
		return err
	}
	rec, machine, proc, err := p.openMachine(name, machine)
	if err != nil {
		return err
	}
	defer proc.Close()
	if p.describe(rec).State == Paused {
		// It would start again at once, and move while nothing else does.
		return fmt.Errorf("cluster %q: %w", name, ErrPaused)
	}
	if err := proc.Signal(unix.SIGKILL); err != nil && !errors.Is(err, namespaces.ErrGone) {
		return fmt.Errorf("kill machine %q: %w", machine, err)
	}
	return proc.Wait(ctx)
}

// Streams of a command.
type Streams struct {
	In  *os.File
	Out *os.File
	Err *os.File
}

// Exec runs a command inside a machine (default: the control plane's) and
// returns its exit code. With a terminal, In must be one. The calling process
// moves into a cgroup of the machine: it should end soon after.
func Exec(ctx context.Context, name, node string, cmd []string, streams Streams, terminal bool) (int, error) {
	p, err := DefaultPaths()
	if err != nil {
		return 0, err
	}
	rec, node, proc, err := p.openMachine(name, node)
	if err != nil {
		return 0, err
	}
	defer proc.Close()
	layout, err := namespaces.Layout()
	if err != nil {
		return 0, err
	}
	if layout.Frozen(machineCgroup(name, node)) {
		// The command would be born frozen, and we with it.
		return 0, fmt.Errorf("machine %q: %w", node, ErrPaused)
	}
	c := namespaces.Command{
		Args: cmd, Terminal: terminal, Streams: [3]*os.File{streams.In, streams.Out, streams.Err},
		Env: []string{
			"PATH=" + machine.LibexecDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=/root", "LANG=C.UTF-8", "TERM=" + os.Getenv("TERM"), "HOSTNAME=" + node,
		},
	}
	if rec.controls(node) {
		c.Env = append(c.Env, "KUBECONFIG="+adminFile)
	}
	pid, master, err := namespaces.Exec(proc, layout, machineCgroup(name, node), c)
	if err != nil {
		return 0, fmt.Errorf("machine %q: %w", node, err)
	}
	if master != nil {
		restore, err := attach(master, streams)
		if err != nil {
			return 0, err
		}
		defer restore()
	}
	return waitCommand(ctx, pid)
}

// waitCommand kills the command when ctx ends. A command ended by a signal
// has the exit code of a shell, 128 and its number.
func waitCommand(ctx context.Context, pid int) (int, error) {
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	defer stop()
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EINTR) {
			return 0, fmt.Errorf("wait for command: %w", err)
		}
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// attach joins our terminal and the machine's until the latter hangs up.
func attach(master *os.File, streams Streams) (restore func(), err error) {
	fd := int(streams.In.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set terminal to raw mode: %w", err)
	}
	resize := make(chan os.Signal, 1)
	resize <- unix.SIGWINCH // the first size
	signal.Notify(resize, unix.SIGWINCH)
	go func() {
		for range resize {
			if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
				_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, size)
			}
		}
	}()
	// This copy ends with the process: a read of a terminal cannot be
	// interrupted.
	go func() { _, _ = io.Copy(master, streams.In) }()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(streams.Out, master) // EIO: the other side hung up
		close(done)
	}()
	return func() {
		<-done
		signal.Stop(resize)
		close(resize)
		master.Close()
		_ = term.Restore(fd, state)
	}, nil
}
