package storage

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestThePrompterAsksOncePerRevisionAndNotTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p prompter
		asked := 0
		ask := func() { asked++ }
		expect := func(want int, what string) {
			t.Helper()
			synctest.Wait()
			if asked != want {
				t.Errorf("%s: asked %d times, want %d", what, asked, want)
			}
		}
		time.Sleep(time.Second)
		p.reach(5, ask)
		expect(1, "at once")
		p.reach(5, ask)
		p.reach(4, ask)
		expect(1, "the answer for 5 is for these too")
		p.reach(6, ask)
		p.reach(9, ask)
		p.reach(8, ask)
		expect(1, "not so soon after the first")
		time.Sleep(promptSpacing)
		expect(2, "once for all that came meanwhile")
		time.Sleep(time.Second)
		p.reach(10, ask)
		expect(3, "at once after a pause")
	})
}
