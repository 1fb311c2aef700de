package progress

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPlainStepsAreLinesWithTimes(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	s := New(&out, Plain, func() time.Time { return now })
	s.Println("Creating cluster %q ...", "dev")
	s.Start("Preparing machines 📦")
	now = now.Add(40 * time.Millisecond)
	s.Start("Starting control-plane 🕹️")
	now = now.Add(310 * time.Millisecond)
	s.Done("Ready after %s", Seconds(350*time.Millisecond))
	s.Start("Joining worker nodes 🚜")
	now = now.Add(75 * time.Second)
	s.End(errors.New("x"))
	s.End(errors.New("twice"))
	want := `Creating cluster "dev" ...
 ✓ Preparing machines 📦 0.04s
 ✓ Starting control-plane 🕹️ 0.31s
 ✓ Ready after 0.35s
 ✗ Joining worker nodes 🚜 1m15s
`
	if out.String() != want {
		t.Errorf("want:\n%s\nhave:\n%s", want, out.String())
	}
}

func TestQuietPrintsNothing(t *testing.T) {
	var out bytes.Buffer
	s := New(&out, Quiet, time.Now)
	s.Println("a")
	s.Start("b")
	s.Done("c")
	s.End(nil)
	if out.Len() > 0 {
		t.Errorf("have %q", out.String())
	}
}

func TestTerminalSpinsUntilTheStepEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := New(&out, Terminal, time.Now)
		s.Start("Working")
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		s.Println("a warning")
		s.End(nil)
		// The bubble fails if the spinner's goroutine is left.
		got := out.String()
		if n := strings.Count(got, "Working"); n != 4 {
			t.Errorf("painted %d times, want three frames and the tick: %q", n, got)
		}
		if !strings.HasSuffix(got, clearLine+"a warning\n"+clearLine+" \x1b[32m✓\x1b[0m Working 0.25s\n") {
			t.Errorf("end: %q", got)
		}
	})
}
