package namespaces

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces/pid1"
)

// Machine says how to start one.
type Machine struct {
	// Init is the path of skiff-init on the host.
	Init string
	// Config is handed to it.
	Config machine.MachineConfiguration
	// CgroupPath is the machine's directory in every tree of Hierarchies,
	// which exists already.
	CgroupPath  string
	Hierarchies Hierarchies
	// Netns is the path of the machine's network namespace.
	Netns string
	// Output is where init's own log goes.
	Output *os.File
	// Sockets are handed over under their names. They stay open here.
	Sockets map[string]*os.File
}

// firstSocket is the descriptor number of the first handed-over socket in
// init, after its standard streams and the socket to the supervisor.
const firstSocket = 4

// SocketNumbers says which descriptor of init is which socket: they are
// handed over in the order of their names.
func SocketNumbers(names []string) map[string]int {
	numbers := map[string]int{}
	for i, name := range slices.Sorted(slices.Values(names)) {
		numbers[name] = firstSocket + i
	}
	return numbers
}

// Start clones process 1 of the machine, born in its network namespace and
// cgroups, with mount, pid, uts and ipc namespaces of its own, and returns
// when the machine has booted.
func Start(ctx context.Context, m Machine) (*Process, error) {
	p, err := start(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("start machine %s: %w", m.Config.Name, err)
	}
	return p, nil
}

func start(ctx context.Context, m Machine) (*Process, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	var pid int
	err = onDyingThread(func() error {
		netns, err := unix.Open(m.Netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open network namespace %s: %w", m.Netns, err)
		}
		defer unix.Close(netns)
		if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", m.Netns, err)
		}
		cgroup2, err := m.Hierarchies.joinThread(m.CgroupPath)
		if cgroup2 >= 0 {
			defer unix.Close(cgroup2)
		}
		if err != nil {
			return err
		}
		pid, err = m.clone(theirs, cgroup2)
		return err
	})
	if err != nil {
		return nil, err
	}
	theirs.Close()
	p, err := child(pid)
	if err != nil {
		return nil, err
	}
	if err := converse(ctx, ours, m.Config); err != nil {
		// It may hang in a mount: SIGKILL, and wait for the end so that the
		// caller can clean up. The caller's ctx may be what has ended.
		_ = p.Signal(unix.SIGKILL)
		_ = p.Wait(context.WithoutCancel(ctx))
		p.Close()
		return nil, err
	}
	return p, nil
}

// converse hands the configuration over and hears how the boot went.
func converse(ctx context.Context, conn *os.File, cfg machine.MachineConfiguration) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(cfg); err != nil {
		return fmt.Errorf("hand over configuration: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var shutdownErr error
	if err := raw.Control(func(fd uintptr) { shutdownErr = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	if shutdownErr != nil {
		return fmt.Errorf("hand over configuration: %w", shutdownErr)
	}
	answer, err := io.ReadAll(conn)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("wait for boot: %w", err)
	case len(answer) == 0:
		return errors.New("process 1 ended while the machine booted")
	case string(answer) != pid1.BootDone:
		return errors.New(string(answer))
	}
	return nil
}

// socketPair makes a connected pair of stream sockets; the first one waits
// without a thread.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "machine"), os.NewFile(uintptr(fds[1]), "supervisor"), nil
}

func (m Machine) clone(supervisor *os.File, cgroup2 int) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), m.Output.Fd(), m.Output.Fd(), supervisor.Fd()}
	names := make([]string, 0, len(m.Sockets))
	for name := range m.Sockets {
		names = append(names, name)
	}
	slices.Sort(names)
	var listen []string
	for _, name := range names {
		listen = append(listen, name+"="+strconv.Itoa(len(files)))
		files = append(files, m.Sockets[name].Fd())
	}
	return syscall.ForkExec(m.Init, []string{m.Init}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{machine.ListenFDs + "=" + strings.Join(listen, ",")},
		Files: files,
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			UseCgroupFD: cgroup2 >= 0,
			CgroupFD:    cgroup2,
			Setsid:      true,
		},
	})
}

// onDyingThread runs fn on a thread that ends afterwards, with whatever
// namespaces and cgroups fn left it in.
func onDyingThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The main thread cannot end. While it waits here, locked, the
			// next goroutine gets another one.
			done <- onDyingThread(fn)
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

// Program is started in a cgroup of the host, in the host's namespaces, in a
// session of its own.
type Program struct {
	Args []string
	Env  []string
	// Files are its descriptors from 0 on.
	Files []*os.File
}

// Launch starts a program in the cgroup path, which exists.
func Launch(hs Hierarchies, path string, prog Program) (*Process, error) {
	var pid int
	err := onDyingThread(func() error {
		cgroup2, err := hs.joinThread(path)
		if cgroup2 >= 0 {
			defer unix.Close(cgroup2)
		}
		if err != nil {
			return err
		}
		files := make([]uintptr, 0, len(prog.Files))
		for _, f := range prog.Files {
			files = append(files, f.Fd())
		}
		pid, err = syscall.ForkExec(prog.Args[0], prog.Args, &syscall.ProcAttr{
			Dir: "/", Env: prog.Env, Files: files,
			Sys: &syscall.SysProcAttr{Setsid: true, UseCgroupFD: cgroup2 >= 0, CgroupFD: cgroup2},
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", prog.Args[0], err)
	}
	return child(pid)
}

// child opens a process that was just started; one that has ended already is
// reaped.
func child(pid int) (*Process, error) {
	p, err := Find(pid, 0)
	if err != nil {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return p, nil
}

func openDir(path string) (int, error) {
	return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
