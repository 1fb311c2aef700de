package cloudstorage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	continuity "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
	"k8s.io/utils/exec"

	"github.com/skiff-k8s/skiff/hostnode/loopdevice"
)

// bindFlags are the mount options that every file system has. Others are for
// a file system that a directory is not, and have no effect on one.
var bindFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
}

// mounted tells whether something is mounted at path.
func mounted(path string) (bool, error) {
	is, err := mount.New("").IsMountPoint(path)
	if missing(err) {
		return false, nil
	}
	return is, err
}

// elsewhere tells whether what is mounted at staged is mounted at a third path.
func elsewhere(staged, target string) (bool, error) {
	all, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("list mounts: %w", err)
	}
	at := slices.IndexFunc(all, func(m mount.MountInfo) bool { return m.MountPoint == staged })
	if at < 0 {
		return false, nil
	}
	same := all[at]
	return slices.ContainsFunc(all, func(m mount.MountInfo) bool {
		return m.Major == same.Major && m.Minor == same.Minor && m.Root == same.Root && m.MountPoint != staged && m.MountPoint != target
	}), nil
}

// bind shows source at target, with those of the options that it can have.
func bind(source, target string, options []string) error {
	is, err := mounted(target)
	if err != nil || is {
		return err
	}
	if err := makeLike(source, target); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind " + source, Path: target, Err: err}
	}
	var flags uintptr
	for _, o := range options {
		flags |= bindFlags[o]
	}
	if flags == 0 {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""); err != nil {
		return errors.Join(fmt.Errorf("mount options %v at %s: %w", options, target, err), unmount(target))
	}
	return nil
}

// makeLike makes target a directory, or a file for a device.
func makeLike(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.MkdirAll(target, 0o750)
	}
	f, err := os.OpenFile(target, os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// unmount takes down what is mounted at path.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || missing(err) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// remove takes down what is mounted at path, and the path, which may be gone.
func remove(path string) error {
	if err := unmount(path); err != nil {
		return err
	}
	err := os.Remove(path)
	if missing(err) {
		return nil
	}
	return err
}

// mountImage mounts a file system in a file, which it makes at first. The
// device goes with the last mount.
func mountImage(owner loopdevice.Owner, file, target, fsType string, options []string) error {
	is, err := mounted(target)
	if err != nil || is {
		return err
	}
	device, err := owner.Attach(file, true)
	if err != nil {
		return err
	}
	defer device.Close()
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	if err := growUnmounted(device.Name()); err != nil {
		return err
	}
	mounter := &mount.SafeFormatAndMount{Interface: mount.New(""), Exec: exec.New()}
	return mounter.FormatAndMount(device.Name(), target, fsType, options)
}

// growUnmounted lets an ext file system fill a device that grew while nobody
// could grow it. Others grow when they are mounted.
func growUnmounted(device string) error {
	run := exec.New()
	format, err := (&mount.SafeFormatAndMount{Interface: mount.New(""), Exec: run}).GetDiskFormat(device)
	if err != nil || !strings.HasPrefix(format, "ext") {
		return err
	}
	need, err := mount.NewResizeFs(run).NeedResize(device, "")
	if err != nil || !need {
		return err
	}
	// resize2fs insists on a check; 1 says that something was mended.
	if out, err := run.Command("e2fsck", "-f", "-p", device).CombinedOutput(); err != nil {
		var exit exec.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() > 1 {
			return fmt.Errorf("check %s: %w: %s", device, err, out)
		}
	}
	if out, err := run.Command("resize2fs", device).CombinedOutput(); err != nil {
		return fmt.Errorf("resize %s: %w: %s", device, err, out)
	}
	return nil
}

// errNotOnline says that a file system cannot grow before its next mount.
var errNotOnline = errors.New("growing a mounted ext file system needs CAP_SYS_RESOURCE, which this host does not give: it grows when a Pod mounts it next")

// growImage lets the file system at path fill its file.
func growImage(file, path string) error {
	device, err := growDevice(file)
	if err != nil {
		return err
	}
	_, err = mount.NewResizeFs(exec.New()).Resize(device, path)
	if err != nil && strings.Contains(err.Error(), "Permission denied to resize") {
		return errNotOnline
	}
	return err
}

func growDevice(file string) (string, error) {
	device, err := loopdevice.Find(file)
	if err != nil {
		return "", err
	}
	if device == "" {
		return "", fmt.Errorf("%s: has no device", filepath.Base(file))
	}
	return device, loopdevice.Resize(device)
}

// usage of a volume.
type usage struct {
	bytes, used, free     int64
	inodes, iused, ifrees int64
}

// imageUsage is what the file system at path says.
func imageUsage(path string) (usage, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return usage{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	block := st.Bsize
	return usage{
		bytes: int64(st.Blocks) * block, free: int64(st.Bavail) * block, used: int64(st.Blocks-st.Bfree) * block,
		inodes: int64(st.Files), iused: int64(st.Files - st.Ffree), ifrees: int64(st.Ffree),
	}, nil
}

// directoryUsage counts what is in a directory that may hold that much.
func directoryUsage(ctx context.Context, path string, bytes int64) (usage, error) {
	u, err := imageUsage(path)
	if err != nil {
		return usage{}, err
	}
	counted, err := continuity.DiskUsage(ctx, path)
	if err != nil {
		return usage{}, fmt.Errorf("usage of %s: %w", path, err)
	}
	u.bytes, u.used, u.free = bytes, counted.Size, max(0, bytes-counted.Size)
	u.iused = counted.Inodes
	return u, nil
}
