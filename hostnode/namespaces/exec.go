package namespaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is run inside a machine.
type Command struct {
	Args []string
	Env  []string
	// Streams are stdin, stdout and stderr. With a terminal they are not
	// used: the command gets one of the machine's.
	Streams  [3]*os.File
	Terminal bool
}

// ErrNoCommand says that the machine has no such program.
var ErrNoCommand = errors.New("no such program in the machine")

const everyNamespace = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// Exec starts cmd in all namespaces and cgroups of the machine whose process
// 1 is p. With a terminal, its master side comes back. The calling process
// itself moves into the machine's cgroup2 directory (nothing else can be
// forked into a cgroup namespace on every host): meant for a process that
// ends with the command.
func Exec(p *Process, hs Hierarchies, cgroupPath string, cmd Command) (pid int, master *os.File, err error) {
	if len(cmd.Args) == 0 {
		return 0, nil, errors.New("run command: none given")
	}
	for _, h := range hs {
		if h.Controllers != "" {
			continue
		}
		dir := filepath.Join(h.Mount, cgroupPath)
		if hs.Pure() {
			dir = filepath.Join(dir, "init") // the directory above holds no process
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return 0, nil, fmt.Errorf("join cgroup %s: %w", dir, err)
		}
	}
	err = onDyingThread(func() error {
		cgroup2, err := hs.joinThread(cgroupPath)
		if cgroup2 >= 0 {
			unix.Close(cgroup2)
		}
		if err != nil {
			return err
		}
		if err := enter(p); err != nil {
			return err
		}
		pid, master, err = cmd.fork()
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("run %s: %w", cmd.Args[0], err)
	}
	return pid, master, nil
}

// enter moves the calling thread into all namespaces of p.
func enter(p *Process) error {
	// A mount namespace is entered by a thread whose root and working
	// directory are its own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare working directory: %w", err)
	}
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var setnsErr error
	if err := conn.Control(func(fd uintptr) { setnsErr = unix.Setns(int(fd), everyNamespace) }); err != nil {
		return err
	}
	if setnsErr != nil {
		return fmt.Errorf("enter namespaces of process %d: %w", p.PID, setnsErr)
	}
	return unix.Chdir("/")
}

// fork runs on a thread inside the machine: paths are the machine's.
func (cmd Command) fork() (int, *os.File, error) {
	path, err := lookPath(cmd.Args[0], cmd.Env)
	if err != nil {
		return 0, nil, err
	}
	sys := &syscall.SysProcAttr{Setsid: true}
	files := []uintptr{cmd.Streams[0].Fd(), cmd.Streams[1].Fd(), cmd.Streams[2].Fd()}
	var master *os.File
	if cmd.Terminal {
		var slave *os.File
		if master, slave, err = openTerminal(); err != nil {
			return 0, nil, err
		}
		defer slave.Close()
		files = []uintptr{slave.Fd(), slave.Fd(), slave.Fd()}
		sys.Setctty = true
	}
	pid, err := syscall.ForkExec(path, cmd.Args, &syscall.ProcAttr{Dir: "/", Env: cmd.Env, Files: files, Sys: sys})
	if err != nil && master != nil {
		master.Close()
	}
	return pid, master, err
}

// openTerminal makes a pseudo terminal in the machine's devpts.
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	var number int
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	if err != nil {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("make terminal: %w", err)
	}
	name := "/dev/pts/" + strconv.Itoa(number)
	slave, err = os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "terminal"), slave, nil
}

// lookPath finds a program by the PATH of env.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	for _, entry := range env {
		list, ok := strings.CutPrefix(entry, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(list, ":") {
			path := filepath.Join("/", dir, name)
			if executable(path) == nil {
				return path, nil
			}
		}
	}
	return "", ErrNoCommand
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return ErrNoCommand
	}
	return nil
}
