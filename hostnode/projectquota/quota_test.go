package projectquota

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	preferred = 1 << 31
	megabyte  = 1 << 20
)

func TestAFileSystemWithoutQuotas(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	if err := Set([]string{dir}, preferred, Limit{Bytes: megabyte}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("tmpfs: %v", err)
	}
	if err := Clear(dir); err != nil {
		t.Errorf("nothing to clear: %v", err)
	}
	missing := filepath.Join(dir, "missing")
	if err := Set([]string{missing}, preferred, Limit{Bytes: megabyte}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if err := Clear(missing); err != nil {
		t.Errorf("no directory to clear: %v", err)
	}
}

func TestLimits(t *testing.T) {
	dir := quotaDisk(t)
	first, second, beside, below := filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "beside"), filepath.Join(dir, "first/below")
	for _, d := range []string{first, second, beside, below} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	limit := Limit{Bytes: 4 * megabyte, Inodes: 50}
	set := func(preferred uint32, dirs ...string) {
		t.Helper()
		if err := Set(dirs, preferred, limit); err != nil {
			t.Fatal(err)
		}
	}
	set(preferred, first, second)
	set(preferred+7, first, second) // again, as each start does
	set(preferred, beside)          // of another machine whose number is the same
	projects := map[string]uint32{first: preferred, second: preferred, beside: preferred + 1}
	for d, want := range projects {
		if have := project(t, d); have != want {
			t.Errorf("%s is of project %d, want %d", d, have, want)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(second, &fs); err != nil || int64(fs.Blocks)*fs.Frsize != limit.Bytes || fs.Files != uint64(limit.Inodes) {
		t.Errorf("statfs: %v, %d bytes, %d inodes", err, int64(fs.Blocks)*fs.Frsize, fs.Files)
	}

	if err := fill(filepath.Join(first, "half"), limit.Bytes/2); err != nil {
		t.Error(err)
	}
	if err := fill(filepath.Join(second, "more"), limit.Bytes); !full(err) {
		t.Errorf("more than both may hold: %v", err)
	}
	if err := fill(filepath.Join(beside, "own"), limit.Bytes/2); err != nil {
		t.Errorf("the other's limit: %v", err)
	}

	// A directory in one of somebody else's project is not its.
	inherited := filepath.Join(first, "inherited")
	if err := os.Mkdir(inherited, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Clear(inherited); err != nil {
		t.Error(err)
	}
	if err := fill(filepath.Join(second, "still"), limit.Bytes); !full(err) {
		t.Errorf("its parent's limit is gone: %v", err)
	}

	if err := Clear(first); err != nil {
		t.Error(err)
	}
	if err := fill(filepath.Join(second, "free"), limit.Bytes); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

// quotaDisk is a file system that keeps project quotas.
func quotaDisk(t *testing.T) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "disk.img"), t.TempDir()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 64*megabyte)); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) error {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			err = errors.Join(err, errors.New(string(out)))
		}
		return err
	}
	if err := run("mke2fs", "-q", "-t", "ext4", "-O", "project,quota", "-E", "quotatype=prjquota", image); err != nil {
		t.Fatal(err)
	}
	if err := run("mount", "-o", "loop,prjquota", image, dir); err != nil {
		// hack/test-vm.sh runs this test where it has to pass.
		t.Skipf("this kernel has no project quotas (CONFIG_QFMT_V2): %v", err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// fill writes as a container does, which has no CAP_SYS_RESOURCE.
func fill(path string, bytes int64) error {
	out, err := exec.Command("setpriv", "--bounding-set", "-sys_resource",
		"dd", "if=/dev/zero", "of="+path, "bs=64K", "conv=fsync", fmt.Sprint("count=", bytes>>16)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// full says whether a writer was told that there is no room.
func full(err error) bool { return err != nil && strings.Contains(err.Error(), "quota exceeded") }

func project(t *testing.T, dir string) uint32 {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := own(f)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func unmount(t *testing.T, dir string) {
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
}
