package lb

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// identityOf picks the first address of each family.
func identityOf(addrs []netip.Addr) table.Identity {
	var id table.Identity
	for _, a := range addrs {
		switch {
		case a.Is4() && !id.V4.IsValid():
			id.V4 = a
		case !a.Is4() && !id.V6.IsValid():
			id.V6 = a
		}
	}
	return id
}

// PodAttached says which addresses the pod in the network namespace at path
// sends from: Services with source ranges ask it. What it said stays with the
// pins, for the next process too.
func (l *Loader) PodAttached(path string, addrs []netip.Addr) error {
	cookie, err := cookieAt(path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.targets[0].table.SetIdentity(cookie, identityOf(addrs))
}

// PodDetached forgets the pod in the network namespace at path; it succeeds
// when that is gone.
func (l *Loader) PodDetached(path string) error {
	cookie, err := cookieAt(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.targets[0].table.SetIdentity(cookie, table.Identity{})
}

// cookieAt is the kernel's number for the network namespace at path.
func cookieAt(path string) (cookie uint64, err error) {
	if _, err := os.Stat(path); err != nil {
		return 0, fmt.Errorf("read network namespace cookie: %w", err)
	}
	inThread := onThread(func() error {
		return inNetns(path, func() (err error) {
			cookie, err = netnsCookie()
			return err
		})
	})
	if inThread != nil {
		return 0, inThread
	}
	if cookie == 0 {
		return 0, fmt.Errorf("read network namespace cookie of %s: %w", path, fs.ErrNotExist)
	}
	return cookie, nil
}

// forgetDead drops the network namespaces that died while no process was
// here to be told.
func (l *Loader) forgetDead(own uint64) error {
	known, err := l.targets[0].table.Identities()
	if err != nil || len(known) == 0 {
		return err
	}
	live := map[uint64]struct{}{own: {}}
	if err := inEachNetns(func() error {
		cookie, err := netnsCookie()
		live[cookie] = struct{}{}
		return err
	}); err != nil {
		return err
	}
	var errs []error
	for _, cookie := range known {
		if _, ok := live[cookie]; !ok {
			errs = append(errs, l.targets[0].table.SetIdentity(cookie, table.Identity{}))
		}
	}
	return errors.Join(errs...)
}

// netnsFiles are files of all network namespaces, by name, that a process of
// this pid namespace is in or that are mounted here: a pod's is there before
// and between its containers.
func netnsFiles() (map[string]string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	found := mountedNetns(string(mounts))
	files, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	for _, f := range files {
		if name, err := os.Readlink(f); err == nil { // or it is gone meanwhile
			found[name] = f
		}
	}
	return found, nil
}

// mountedNetns finds network namespaces in mountinfo, by name.
func mountedNetns(mountinfo string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(line, " - ")
		fields := strings.Fields(head)
		if ok && strings.HasPrefix(tail, "nsfs ") && len(fields) >= 5 && strings.HasPrefix(fields[3], "net:") {
			found[fields[3]] = unescape(fields[4])
		}
	}
	return found
}

// inEachNetns calls f once in this process's network namespace and in every
// such one.
func inEachNetns(f func() error) error {
	return onThread(func() error {
		home, err := os.Readlink(threadNetns)
		if err != nil {
			return fmt.Errorf("list network namespaces: %w", err)
		}
		found, err := netnsFiles()
		if err != nil {
			return err
		}
		delete(found, home)
		errs := []error{f()}
		for _, path := range found {
			errs = append(errs, inNetns(path, f))
		}
		return errors.Join(errs...)
	})
}

// threadNetns is the network namespace of who asks.
const threadNetns = "/proc/thread-self/ns/net"

// onThread calls f on a thread that it may move to other network namespaces.
// The thread goes home afterwards: the process's first one could not end, and
// would hold a pod's namespace for ever.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(threadNetns)
		if err != nil {
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// inNetns calls f in the network namespace at path, if that still is there,
// and stays in it.
func inNetns(path string, f func() error) error {
	file, err := os.Open(path)
	if err != nil {
		return nil // gone with its process
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return f()
}

// netnsCookie is the kernel's number for the thread's network namespace.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("read network namespace cookie: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read network namespace cookie: %w", err)
	}
	return cookie, nil
}
