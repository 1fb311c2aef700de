package loopdevice

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// devices lists the host's loop devices.
func devices() ([]string, error) {
	return filepath.Glob("/dev/loop[0-9]*")
}

// Find returns the device of a file, or nothing.
func Find(file string) (string, error) {
	var want unix.Stat_t
	if err := unix.Stat(file, &want); err != nil {
		return "", err
	}
	return match(func(info *unix.LoopInfo64) bool {
		return info.Device == want.Dev && info.Inode == want.Ino
	})
}

func match(wanted func(*unix.LoopInfo64) bool) (string, error) {
	found, err := matchAll(wanted)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}

func matchAll(wanted func(*unix.LoopInfo64) bool) (found []string, err error) {
	all, err := devices()
	if err != nil {
		return nil, err
	}
	for _, device := range all {
		f, err := os.OpenFile(device, os.O_RDONLY, 0)
		if err != nil {
			continue // ENXIO: removed meanwhile
		}
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		f.Close()
		if err == nil && wanted(info) {
			found = append(found, device)
		}
	}
	return found, nil
}

// Owner is a directory whose files have devices. They are its own after their
// files are gone, too.
type Owner string

// prefix is how the mark of each device of the owner begins: by the inode, as
// machines and the host have other names for the directory.
func (o Owner) prefix() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(string(o), &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: string(o), Err: err}
	}
	return fmt.Sprintf("skiff %x:%x ", st.Dev, st.Ino), nil
}

// mark is the name that a device has for its file.
func (o Owner) mark(file string) (string, error) {
	prefix, err := o.prefix()
	if err != nil {
		return "", err
	}
	name, err := filepath.Rel(string(o), file)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(name))
	return prefix + hex.EncodeToString(sum[:8]), nil
}

func markOf(info *unix.LoopInfo64) string { return unix.ByteSliceToString(info.File_name[:]) }

// Backs tells whether a loop device, by its number, is the one of a file. A
// block device that is none is an error.
func Backs(device uint64, file string) (bool, error) {
	const loopMajor = 7
	if unix.Major(device) != loopMajor {
		return false, fmt.Errorf("device %d:%d is no loop device", unix.Major(device), unix.Minor(device))
	}
	var want unix.Stat_t
	if err := unix.Stat(file, &want); err != nil {
		return false, &fs.PathError{Op: "stat", Path: file, Err: err}
	}
	f, err := openDevice(int(unix.Minor(device)))
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask loop device %d for its file: %w", unix.Minor(device), err)
	}
	return info.Device == want.Dev && info.Inode == want.Ino, nil
}

// Attach gives a file of the owner its device. A transient one goes with its
// last user; so does the device of an earlier file of the same name.
// The caller closes the file that is returned when it uses the device.
func (o Owner) Attach(file string, transient bool) (*os.File, error) {
	device, err := Find(file)
	if err != nil {
		return nil, err
	}
	if device != "" {
		return os.OpenFile(device, os.O_RDWR, 0)
	}
	mark, err := o.mark(file)
	if err != nil {
		return nil, err
	}
	if err := clearAll(func(info *unix.LoopInfo64) bool { return markOf(info) == mark }); err != nil {
		return nil, err
	}
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("this volume needs a loop device: %w", err)
	}
	defer control.Close()
	config := &unix.LoopConfig{Fd: uint32(backing.Fd())}
	copy(config.Info.File_name[:], mark)
	if transient {
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	}
	for {
		free, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		f, err := openDevice(free)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(f.Fd()), config)
		if err == nil {
			return f, nil
		}
		f.Close()
		if !errors.Is(err, unix.EBUSY) { // else another was faster
			return nil, fmt.Errorf("configure loop device %d: %w", free, err)
		}
	}
}

// openDevice opens a device that may have been made after the machine's /dev.
func openDevice(number int) (*os.File, error) {
	path := "/dev/loop" + strconv.Itoa(number)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		const loopMajor = 7
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(number)))); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make %s: %w", path, err)
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	return f, err
}

// Detach takes the devices of a file of the owner away, and first those that a
// kubelet has on top of them to hold them. All may be gone, and the file. One
// that is still mounted somewhere goes when it no longer is.
func (o Owner) Detach(file string) error {
	mark, err := o.mark(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	there := unix.Stat(file, &st) == nil
	return clearAll(func(info *unix.LoopInfo64) bool {
		return markOf(info) == mark || there && info.Device == st.Dev && info.Inode == st.Ino
	})
}

// clearAll detaches devices, and what is on top of them.
func clearAll(wanted func(*unix.LoopInfo64) bool) error {
	found, err := matchAll(wanted)
	for _, device := range found {
		if e := errors.Join(detachAbove(device), clearDevice(device)); e != nil {
			err = errors.Join(err, fmt.Errorf("detach %s: %w", device, e))
		}
	}
	return err
}

func detachAbove(device string) error {
	var below unix.Stat_t
	if err := unix.Stat(device, &below); err != nil {
		return err
	}
	above, err := match(func(info *unix.LoopInfo64) bool { return info.Rdevice == below.Rdev })
	if err != nil || above == "" {
		return err
	}
	return clearDevice(above)
}

func clearDevice(device string) error {
	f, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	return err
}

// Resize lets the device of a file see the file's new size.
func Resize(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0)
}

// DetachAll detaches the devices of all files of the owner, which may be gone:
// what a machine that was killed leaves to the host. The pattern, below the
// owner, finds the files of devices that an older skiff has attached.
func (o Owner) DetachAll(pattern string) error {
	prefix, err := o.prefix()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = clearAll(func(info *unix.LoopInfo64) bool { return strings.HasPrefix(markOf(info), prefix) })
	files, globErr := filepath.Glob(filepath.Join(string(o), pattern))
	err = errors.Join(err, globErr)
	for _, f := range files {
		if e := o.Detach(f); e != nil {
			err = errors.Join(err, fmt.Errorf("detach the loop device of %s: %w", f, e))
		}
	}
	return err
}
