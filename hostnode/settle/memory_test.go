package settle

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Only the program's own pages are looked at: the race detector's memory, if
// it is on, is many times theirs and stays.
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
				own = strings.HasSuffix(strings.TrimSpace(line), self)
			}
		}
		return total
	}
	before := resident()
	if err := Memory(); err != nil {
		t.Fatal(err)
	}
	after := resident()
	t.Logf("resident pages of %s: %d kB, then %d kB", self, before, after)
	if before == 0 || after > before*3/4 {
		t.Errorf("resident pages: %d kB, then %d kB", before, after)
	}
}
