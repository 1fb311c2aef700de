package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/pidfd"
)

func namespaceOptions(sb *sandbox) *runtimeapi.NamespaceOption {
	return sb.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// namespaces are the clone flags of a pod's pause process. The network
// namespace is not among them: CRI made it.
func namespaces(options *runtimeapi.NamespaceOption) uintptr {
	var flags uintptr
	if options.GetIpc() != runtimeapi.NamespaceMode_NODE {
		flags |= unix.CLONE_NEWIPC
	}
	// A pod with the node's network has the node's name too.
	if options.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		flags |= unix.CLONE_NEWUTS
	}
	// POD is a PID namespace that all containers share (shareProcessNamespace).
	// CONTAINER: runc makes one per container; the pause needs none.
	if options.GetPid() == runtimeapi.NamespaceMode_POD {
		flags |= unix.CLONE_NEWPID
	}
	if options.GetUsernsOptions().GetMode() == runtimeapi.NamespaceMode_POD && options.GetUsernsOptions() != nil {
		flags |= unix.CLONE_NEWUSER
	}
	return flags
}

// startPause forks the pod's pause process, waits until its namespaces are set
// up, and has it put on record; if we die before that, so does the pause.
func startPause(binary string, sb *sandbox, record func(*pidfd.Process) error) (_ *pidfd.Process, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("start pause: %w", err)
	}
	defer ours.Close()
	process, err := forkPause(binary, sb, theirs)
	// Our copy must be closed for the end of the pause to be seen.
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("start pause: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start pause: %w", err), abandon(process))
		}
	}()
	sender, err := awaitReady(ours)
	if err != nil {
		return nil, err
	}
	if sender != process.PID {
		// The pause is a child of what we started, which has ended.
		if process, err = follow(process, sender); err != nil {
			return nil, err
		}
	}
	protect(process.PID)
	if err := record(process); err != nil {
		return nil, err
	}
	if _, err := ours.Write([]byte{0}); err != nil {
		return nil, err
	}
	return process, nil
}

// awaitReady reads the pause's message and returns its sender: a zero byte, or
// an error as text.
func awaitReady(socket *os.File) (pid int, err error) {
	message, oob := make([]byte, 512), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, _, _, err := unix.Recvmsg(int(socket.Fd()), message, oob, 0)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, errors.New("it ended without a word")
	}
	if message[0] != 0 {
		return 0, errors.New(string(message[:n]))
	}
	control, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(control) != 1 {
		return 0, fmt.Errorf("read sender of the message: %w", err)
	}
	credentials, err := unix.ParseUnixCredentials(&control[0])
	if err != nil {
		return 0, fmt.Errorf("read sender of the message: %w", err)
	}
	return int(credentials.Pid), nil
}

// follow goes over from a process that has forked to its child, which cannot
// end before we answer it.
func follow(parent *pidfd.Process, child int) (*pidfd.Process, error) {
	process, err := pidfd.Find(child)
	if err != nil {
		return parent, err
	}
	if _, err := parent.Wait(context.Background()); err != nil { // it has ended
		return process, err
	}
	return process, parent.Close()
}

func forkPause(binary string, sb *sandbox, parent *os.File) (*pidfd.Process, error) {
	options := namespaceOptions(sb)
	flags := namespaces(options)
	attr := &syscall.SysProcAttr{Cloneflags: flags, Setsid: true}
	unshare := uintptr(0)
	switch {
	case flags&unix.CLONE_NEWUSER == 0:
	case sb.netns == "":
		attr.UidMappings = idMappings(options.GetUsernsOptions().GetUids())
		attr.GidMappings = idMappings(options.GetUsernsOptions().GetGids())
		attr.GidMappingsEnableSetgroups = true
		attr.Credential = &syscall.Credential{}
	default:
		// CRI made the user namespace with the network namespace, and only
		// its processes may mount /sys of that. The pause goes there itself.
		attr.Cloneflags, unshare = 0, flags&^unix.CLONE_NEWUSER
	}
	hostname := ""
	if flags&unix.CLONE_NEWUTS != 0 {
		hostname = sb.config.GetHostname()
	}
	network, others, err := sysctls(sb.config)
	if err != nil {
		return nil, err
	}
	argv := []string{"/pause", hostname, strconv.FormatUint(uint64(unshare), 10)}
	for _, s := range others {
		argv = append(argv, s.file, s.value)
	}
	devNull, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer devNull.Close()
	files := []*os.File{devNull, devNull, devNull, parent}
	if unshare != 0 {
		owner, err := ownerOf(sb.netns)
		if err != nil {
			return nil, err
		}
		defer owner.Close()
		files = append(files, owner)
	}
	var process *pidfd.Process
	err = inNetNS(sb.netns, func() (err error) {
		// Set from here and not by the pause, which in a user namespace may
		// not: the network namespace is not that one's.
		for _, s := range network {
			if err := os.WriteFile(s.file, []byte(s.value), 0); err != nil {
				return err
			}
		}
		process, err = pidfd.Start(binary, argv, &os.ProcAttr{
			Dir:   "/",
			Env:   []string{},
			Files: files,
			Sys:   attr,
		})
		return err
	})
	return process, err
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	// Messages name their senders, in our own PID namespace.
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return nil, nil, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "pause"), os.NewFile(uintptr(fds[1]), "pause-child"), nil
}

// ownerOf is the user namespace that owns another namespace.
func ownerOf(path string) (*os.File, error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("find the user namespace of %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), "userns"), nil
}

// abandon ends a pause process that is of no use.
func abandon(process *pidfd.Process) error {
	if err := process.Kill(unix.SIGKILL); err != nil {
		return err
	}
	_, err := process.Wait(context.Background()) // SIGKILL ends it
	return errors.Join(err, process.Close())
}

// protect makes the pause a bad choice for the OOM killer, as the kubelet
// does with a sandbox (-998). Without CAP_SYS_RESOURCE that fails and the pause
// keeps our own value, which is no worse than the containers'.
func protect(pid int) {
	const sandboxOOMScore = -998
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(sandboxOOMScore)), 0)
}

func idMappings(ids []*runtimeapi.IDMapping) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, id := range ids {
		out = append(out, syscall.SysProcIDMap{
			ContainerID: int(id.GetContainerId()), HostID: int(id.GetHostId()), Size: int(id.GetLength()),
		})
	}
	return out
}

// inNetNS runs fn on a thread that is in the network namespace of path; an
// empty path is the node's own. A thread that cannot come back is given up.
func inNetNS(path string, fn func() error) error {
	if path == "" {
		return fn()
	}
	there, err := os.Open(path)
	if err != nil {
		return err
	}
	defer there.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter %s: %w", path, err)
			return
		}
		err = fn()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
