package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memory of one agent, in MB.
type memory struct {
	pss, anonymous float64
	// maps is kernel memory of its BPF maps.
	maps float64
}

func memoryOf(pid int) (m memory, err error) {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, err
	}
	m.pss = field(rollup, "Pss:") / 1024
	m.anonymous = field(rollup, "Anonymous:") / 1024
	dir := fmt.Sprintf("/proc/%d/fdinfo/", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return m, err
	}
	seen := map[float64]bool{}
	for _, fd := range fds {
		info, err := os.ReadFile(dir + fd.Name())
		if err != nil {
			continue // closed meanwhile
		}
		id := field(info, "map_id:")
		if id == 0 || seen[id] {
			continue
		}
		seen[id] = true
		m.maps += field(info, "memlock:") / (1 << 20)
	}
	return m, nil
}

// field reads the number after a name at a line's begin; 0 if there is none.
func field(text []byte, name string) float64 {
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		words := strings.Fields(rest)
		if len(words) == 0 {
			return 0
		}
		n, _ := strconv.ParseFloat(words[0], 64)
		return n
	}
	return 0
}
