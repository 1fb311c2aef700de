package loopdevice

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

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
	all, err := devices()
	if err != nil {
		return "", err
	}
	for _, device := range all {
		f, err := os.OpenFile(device, os.O_RDONLY, 0)
		if err != nil {
			continue // ENXIO: removed meanwhile
		}
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		f.Close()
		if err == nil && wanted(info) {
			return device, nil
		}
	}
	return "", nil
}

// Attach gives a file its device. A transient one goes with its last user.
// The caller closes the file that is returned when it uses the device.
func Attach(file string, transient bool) (*os.File, error) {
	device, err := Find(file)
	if err != nil {
		return nil, err
	}
	if device != "" {
		return os.OpenFile(device, os.O_RDWR, 0)
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

// Detach takes the device of a file away, and first the device that a
// kubelet has on top of it to hold it. Both may be gone. One that is still
// mounted somewhere goes when it no longer is.
func Detach(file string) error {
	device, err := Find(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && device == "" {
		return nil
	}
	if err != nil {
		return err
	}
	if err := detachAbove(device); err != nil {
		return err
	}
	return clearDevice(device)
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

// DetachAll detaches the devices of all files that match the pattern: what a
// machine that was killed leaves to the host.
func DetachAll(pattern string) error {
	files, err := filepath.Glob(pattern)
	for _, f := range files {
		if e := Detach(f); e != nil {
			err = errors.Join(err, fmt.Errorf("detach the loop device of %s: %w", f, e))
		}
	}
	return err
}
