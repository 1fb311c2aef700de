package stats

import (
	"fmt"
	"time"

	cadvisor "github.com/google/cadvisor/lib/model"
	"golang.org/x/sys/unix"
)

// fsInfo is the file system that holds path. Device is "major:minor": all
// that upstream does with it is to compare whether two paths share one.
func fsInfo(path string) (cadvisor.FsInfo, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return cadvisor.FsInfo{}, fmt.Errorf("stat %s: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return cadvisor.FsInfo{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	block := uint64(fs.Frsize)
	inodes, free := fs.Files, fs.Ffree
	return cadvisor.FsInfo{
		Timestamp:  time.Now(),
		Device:     fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)),
		Mountpoint: path,
		Capacity:   fs.Blocks * block,
		Available:  fs.Bavail * block,
		Usage:      (fs.Blocks - fs.Bfree) * block,
		Inodes:     &inodes,
		InodesFree: &free,
	}, nil
}
