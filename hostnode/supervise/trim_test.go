package supervise

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

func TestTrimGivesPagesBack(t *testing.T) {
	resident := func() int {
		data, err := os.ReadFile("/proc/self/smaps_rollup")
		if err != nil {
			t.Fatal(err)
		}
		kb, err := strconv.Atoi(regexp.MustCompile(`(?m)^Rss:\s+(\d+)`).FindStringSubmatch(string(data))[1])
		if err != nil {
			t.Fatal(err)
		}
		return kb
	}
	before := resident()
	if err := trim(); err != nil {
		t.Fatal(err)
	}
	after := resident()
	t.Logf("resident: %d kB, then %d kB", before, after)
	if after > before*3/4 {
		t.Errorf("resident: %d kB, then %d kB", before, after)
	}
}
