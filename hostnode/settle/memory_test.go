package settle

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Only the pages of the program's file are looked at: those that it has written
// stay, and so does the race detector's memory, many times as much.
func TestMemoryGivesPagesBack(t *testing.T) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	rss := regexp.MustCompile(`^Rss:\s+(\d+) kB`)
	resident := func() (total int) {
		data, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Fatal(err)
		}
		own := false
		for line := range strings.Lines(string(data)) {
			if m := rss.FindStringSubmatch(line); m != nil && own {
				kb, err := strconv.Atoi(m[1])
				if err != nil {
					t.Fatal(err)
				}
				total += kb
			} else if strings.Contains(line, "-") && strings.Contains(line, " r") {
				own = strings.HasSuffix(strings.TrimSpace(line), self) && !strings.Contains(line, " rw")
			}
		}
		return total
	}
	fault(t, self)
	before := resident()
	if err := Memory(); err != nil {
		t.Fatal(err)
	}
	after := resident()
	t.Logf("resident pages of %s: %d kB, then %d kB", self, before, after)
	// What this test itself runs is mapped again by then.
	if before == 0 || after > before*3/4 {
		t.Errorf("resident pages: %d kB, then %d kB", before, after)
	}
}

// fault reads all pages of the program, as a start reads many.
func fault(t *testing.T, program string) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) != 6 || fields[5] != program {
			continue
		}
		from, to, ok := parseRange(fields[0])
		if !ok {
			t.Fatal(line)
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_POPULATE_READ); errno != 0 {
			t.Fatalf("%s: %v", line, errno)
		}
	}
}
