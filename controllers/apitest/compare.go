package apitest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Dumper prints what a scenario left behind, without what differs from run to
// run.
type Dumper interface{ Dump() string }

// Stage starts controllers for a test and returns how a scenario gets its own
// world below them.
type Stage[W Dumper] func(*testing.T) (enter func(*testing.T) W)

// AsUpstream plays every scenario with ours and with upstream's controller and
// compares what is left.
func AsUpstream[W Dumper](t *testing.T, scenarios map[string]func(W), ours, upstream Stage[W]) {
	t.Helper()
	left := map[string]map[string]string{}
	for who, start := range map[string]Stage[W]{"ours": ours, "upstream": upstream} {
		left[who] = map[string]string{}
		t.Run(who, func(t *testing.T) {
			enter := start(t)
			for name, play := range scenarios {
				t.Run(name, func(t *testing.T) {
					w := enter(t)
					begin := time.Now()
					play(w)
					t.Log(time.Since(begin))
					left[who][name] = Settled(w.Dump)
				})
			}
		})
	}
	for name := range scenarios {
		if left["ours"][name] != left["upstream"][name] {
			t.Errorf("%s: ours\n%s\nupstream's\n%s", name, left["ours"][name], left["upstream"][name])
		}
	}
}

// Until waits until a part stands in what w dumps.
func Until[W interface {
	testing.TB
	Dumper
}](w W, part string) time.Duration {
	w.Helper()
	return Eventually(w, func() string {
		if d := w.Dump(); !strings.Contains(d, part) {
			return fmt.Sprintf("no %q in\n%s", part, d)
		}
		return ""
	})
}
