package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount of our mount namespace.
type mount struct {
	point string
	// options are the optional fields: "shared:1", "master:2".
	options []string
}

func readMounts() ([]mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var mounts []mount
	for line := range strings.Lines(string(data)) {
		left, _, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if ok && len(fields) >= 6 {
			mounts = append(mounts, mount{point: unescape(fields[4]), options: fields[6:]})
		}
	}
	return mounts, nil
}

// unescape undoes mountinfo's octal escapes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountOf finds the mount that path is on.
func mountOf(path string) (string, []string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", nil, err
	}
	mounts, err := readMounts()
	if err != nil {
		return "", nil, err
	}
	var best mount
	for _, m := range mounts {
		if within(path, m.point) && len(m.point) >= len(best.point) {
			best = m // of equals, the later one covers
		}
	}
	return best.point, best.options, nil
}

func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

func hasTag(option, tag string) bool { return strings.HasPrefix(option, tag+":") }

// unmountBelow takes down every mount at dir and below, the last one first.
func unmountBelow(dir string) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if !within(m.point, dir) {
			continue
		}
		if err := unix.Unmount(m.point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.point, err))
		}
	}
	return errors.Join(errs...)
}
