package fabrictest

import (
	"errors"
	"os"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// mounts lists the pinned namespaces.
func mounts() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.Contains(line, " - nsfs ") {
			found = append(found, "mount "+fields[4])
		}
	}
	return found, nil
}

// tables lists the nftables tables.
func tables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	list, err := conn.ListTables()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []string
	for _, t := range list {
		found = append(found, "nftables table "+t.Name)
	}
	return found, nil
}
