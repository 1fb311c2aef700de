package projectquota

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is of a file system that keeps no project quota.
var ErrUnsupported = errors.New("no project quota")

// Limit of a project.
type Limit struct {
	// Bytes on disk; the kernel counts them in KiB.
	Bytes int64
	// Inodes: files, directories and all else with a name.
	Inodes int64
}

// Set limits what dirs hold together, which are on one file system; without
// contents, or of the project already. Projects are told apart by number:
// preferred is taken, or the next that nobody uses. ErrUnsupported if the file
// system keeps no such limits.
func Set(dirs []string, preferred uint32, limit Limit) error {
	open := make([]*os.File, len(dirs))
	for i, dir := range dirs {
		f, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("limit what a directory holds: %w", err)
		}
		defer f.Close()
		open[i] = f
	}
	id, err := choose(open[0], preferred)
	if err != nil {
		return fmt.Errorf("%s: %w", dirs[0], err)
	}
	for _, f := range open {
		if err := join(f, id); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	if err := setLimit(open[0], id, limit); err != nil {
		return fmt.Errorf("%s: %w", dirs[0], err)
	}
	return enforced(dirs[0], limit)
}

// Clear takes the limit of dir's project away, so that nothing is left of it
// once the files are gone. It succeeds when there is no directory, no project or
// no quota.
func Clear(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lift the limit of a directory: %w", err)
	}
	defer f.Close()
	id, err := own(f)
	if err == nil && id != 0 {
		err = setLimit(f, id, Limit{})
	}
	if err != nil && !errors.Is(err, ErrUnsupported) {
		return fmt.Errorf("%s: lift its limit: %w", dir, err)
	}
	return nil
}

// choose is the project that the directory has, or else one without files and
// limits.
func choose(f *os.File, preferred uint32) (uint32, error) {
	id, err := own(f)
	if err != nil || id != 0 {
		return id, err
	}
	for id := max(preferred, 1); ; id++ {
		used, err := inUse(f, id)
		if err != nil || !used {
			return id, err
		}
	}
}

// own is the project of a directory, 0 if it has none, or its parent's: that is
// somebody else's.
func own(f *os.File) (uint32, error) {
	a, err := get(f)
	if err != nil || a.project == 0 {
		return 0, err
	}
	parent, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		return 0, err
	}
	defer parent.Close()
	above, err := get(parent)
	if err != nil || above.project == a.project {
		return 0, err
	}
	return a.project, nil
}

// enforced finds out whether the limit counts: XFS can keep the numbers only.
func enforced(dir string, limit Limit) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if size := int64(fs.Blocks) * fs.Frsize; size > limit.Bytes {
		return fmt.Errorf("%s: %w: its file system counts what a project has and does not limit it", dir, ErrUnsupported)
	}
	return nil
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	flags, extent, extents, project, cowExtent uint32
	_                                          [8]byte
}

// Of linux/fs.h.
const (
	fsGetXattr  = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetXattr  = 0x401c5820 // FS_IOC_FSSETXATTR
	projInherit = 0x200      // FS_XFLAG_PROJINHERIT
)

func get(f *os.File) (fsxattr, error) {
	var a fsxattr
	return a, ioctl(f, fsGetXattr, &a)
}

// join makes a directory one of the project, with all that is made in it.
func join(f *os.File, id uint32) error {
	a, err := get(f)
	if err != nil || a.project == id && a.flags&projInherit != 0 {
		return err
	}
	a.project, a.flags = id, a.flags|projInherit
	return ioctl(f, fsSetXattr, &a)
}

func ioctl(f *os.File, request uintptr, a *fsxattr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(a)))
	return said(errno)
}

// Of linux/quota.h.
const (
	getQuota     = 0x800007<<8 | projectType // QCMD(Q_GETQUOTA, PRJQUOTA)
	setQuota     = 0x800008<<8 | projectType // QCMD(Q_SETQUOTA, PRJQUOTA)
	projectType  = 2
	validLimits  = 1 | 4 // QIF_BLIMITS | QIF_ILIMITS
	limitsBlock  = 1024  // QIF_DQBLKSIZE, bytes
	notEvenKnown = unix.ENOENT
)

// dqblk is struct if_dqblk of linux/quota.h.
type dqblk struct {
	bytesHard, bytesSoft, bytesUsed    uint64 // limits in limitsBlock, used in bytes
	inodesHard, inodesSoft, inodesUsed uint64
	bytesTime, inodesTime              uint64
	valid                              uint32
	_                                  [4]byte
}

// inUse says whether the project has files or a limit.
func inUse(f *os.File, id uint32) (bool, error) {
	var q dqblk
	err := quotactl(f, getQuota, id, &q)
	if errors.Is(err, notEvenKnown) {
		return false, nil
	}
	return q.bytesHard|q.bytesSoft|q.bytesUsed|q.inodesHard|q.inodesSoft|q.inodesUsed != 0, err
}

func setLimit(f *os.File, id uint32, limit Limit) error {
	return quotactl(f, setQuota, id, &dqblk{
		bytesHard: uint64(limit.Bytes / limitsBlock), inodesHard: uint64(limit.Inodes), valid: validLimits,
	})
}

// quotactl asks the file system that f is on, see quotactl_fd(2).
func quotactl(f *os.File, command uintptr, id uint32, q *dqblk) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), command, uintptr(id), uintptr(unsafe.Pointer(q)), 0, 0)
	return said(errno)
}

// said tells what a file system cannot from what went wrong.
func said(errno unix.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.ENOTTY, unix.EOPNOTSUPP, unix.ENOSYS, unix.ESRCH:
		return fmt.Errorf("%w: %w", ErrUnsupported, errno)
	}
	return errno
}
