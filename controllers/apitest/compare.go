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

// rounds is how often a scenario that ends in two ways is played.
const rounds = 3

// AsUpstream plays every scenario with ours and with upstream's controller and
// compares what is left. Two watches may deliver in either order, so what is
// left may differ by chance: only a difference that comes every time fails the
// test, the others are logged.
func AsUpstream[W Dumper](t *testing.T, scenarios map[string]func(W), ours, upstream Stage[W]) {
	t.Helper()
	report := t.Logf
	for round := 1; round <= rounds && len(scenarios) > 0; round++ {
		left, want := leave(t, "ours", scenarios, ours), leave(t, "upstream", scenarios, upstream)
		if t.Failed() {
			return
		}
		if round == rounds {
			report = t.Errorf
		}
		again := map[string]func(W){}
		for name, play := range scenarios {
			if left[name] != want[name] {
				report("%s: ours\n%s\nupstream's\n%s", name, left[name], want[name])
				again[name] = play
			}
		}
		scenarios = again
	}
}

// leave plays every scenario on a stage and returns what is left, by name.
func leave[W Dumper](t *testing.T, who string, scenarios map[string]func(W), start Stage[W]) map[string]string {
	t.Helper()
	left := map[string]string{}
	t.Run(who, func(t *testing.T) {
		enter := start(t)
		for name, play := range scenarios {
			t.Run(name, func(t *testing.T) {
				w := enter(t)
				begin := time.Now()
				play(w)
				t.Log(time.Since(begin))
				left[name] = Settled(w.Dump)
			})
		}
	})
	return left
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
