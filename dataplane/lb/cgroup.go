package lb

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// CgroupRoot finds the cgroup2 directory that holds all processes of this
// cgroup namespace: the mount of the cgroup2 file system at its root. Hybrid
// hosts have it beside the v1 hierarchies, pure v2 hosts at /sys/fs/cgroup.
func CgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2 root: %w", err)
	}
	defer f.Close()
	return cgroupRoot(f)
}

// cgroupRoot reads mountinfo: "id parent dev root mountpoint options
// [optional]... - type source options".
func cgroupRoot(mountinfo io.Reader) (string, error) {
	found := ""
	scanner := bufio.NewScanner(mountinfo)
	for scanner.Scan() {
		head, tail, ok := strings.Cut(scanner.Text(), " - ")
		if !ok || !strings.HasPrefix(tail, "cgroup2 ") {
			continue
		}
		fields := strings.Fields(head)
		if len(fields) < 5 || fields[3] != "/" {
			continue
		}
		// A later mount covers an earlier one at the same place.
		found = unescape(fields[4])
	}
	if err := scanner.Err(); err != nil {
		return "", fmt.Errorf("find cgroup2 root: %w", err)
	}
	if found == "" {
		return "", fmt.Errorf("find cgroup2 root: no cgroup2 file system is mounted at its root: services need one (mount -t cgroup2 none /sys/fs/cgroup/unified)")
	}
	return found, nil
}

// unescape undoes mountinfo's octal escapes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
