package settle

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Memory gives back what the start of the process took and its long run does
// not need: the heap, and its view of the program file's pages, most of which
// only the start reads. The pages stay in the host's cache; those that are
// used are mapped again at the next touch.
func Memory() error {
	debug.FreeOSMemory()
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("give memory back: %w", err)
	}
	defer smaps.Close()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("give memory back: %w", err)
	}
	var from, to uintptr
	program := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		if a, b, ok := parseRange(fields[0]); ok {
			from, to = a, b
			program = len(fields) == 6 && fields[5] == self && !strings.Contains(fields[1], "w")
			continue
		}
		// Pages of the program that hold anything else than the file, such
		// as relocations, must stay.
		if !program || fields[0] != "Anonymous:" || fields[1] != "0" {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give memory back: %w", errno)
		}
	}
	return lines.Err()
}

// parseRange reads the first word of a mapping's line, "00400000-00a3c000".
func parseRange(word string) (from, to uintptr, ok bool) {
	a, b, ok := strings.Cut(word, "-")
	x, errA := strconv.ParseUint(a, 16, 64)
	y, errB := strconv.ParseUint(b, 16, 64)
	return uintptr(x), uintptr(y), ok && errA == nil && errB == nil
}
