package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestAnExchangeIsAllOrNothingWhereverItIsCutOff does the renames of an
// exchange one by one and lets the next command go on after each.
func TestAnExchangeIsAllOrNothingWhereverItIsCutOff(t *testing.T) {
	live := []string{"pki", "machines/a/etcd"}
	prepare := func(t *testing.T) replacement {
		dir := t.TempDir()
		r := replacement{cluster: dir, dir: filepath.Join(dir, "restore")}
		if err := r.stage(live); err != nil {
			t.Fatal(err)
		}
		for i, l := range live {
			mark(t, r.live(l), "old")
			if err := os.Mkdir(r.next(i), 0o700); err != nil {
				t.Fatal(err)
			}
			mark(t, r.next(i), "new")
		}
		return r
	}
	forward := func(r replacement) (steps [][2]string) {
		for i, l := range live {
			steps = append(steps, [2]string{r.live(l), r.old(i)}, [2]string{r.next(i), r.live(l)})
		}
		return steps
	}
	backward := func(r replacement) (steps [][2]string) {
		for i, l := range live {
			steps = append(steps, [2]string{r.live(l), r.next(i)}, [2]string{r.old(i), r.live(l)})
		}
		return steps
	}
	expect := func(t *testing.T, r replacement, want string) {
		t.Helper()
		for _, l := range live {
			if data, err := os.ReadFile(filepath.Join(r.live(l), "mark")); string(data) != want || err != nil {
				t.Errorf("%s is %q, %v; want %s", l, data, err, want)
			}
		}
		if exists(r.dir) {
			t.Error("what was replaced is still there")
		}
	}
	rename := func(t *testing.T, steps [][2]string) {
		t.Helper()
		for _, s := range steps {
			if err := os.Rename(s[0], s[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("before it is decided, nothing happened", func(t *testing.T) {
		r := prepare(t)
		if err := r.settle(); err != nil {
			t.Fatal(err)
		}
		expect(t, r, "old")
	})
	for n := range len(live)*2 + 1 {
		t.Run(fmt.Sprintf("decided and after %d renames, it goes on", n), func(t *testing.T) {
			r := prepare(t)
			if err := r.decide(decision{Live: live}); err != nil {
				t.Fatal(err)
			}
			rename(t, forward(r)[:n])
			if err := r.settle(); err != nil {
				t.Fatal(err)
			}
			expect(t, r, "new")
		})
		t.Run(fmt.Sprintf("half-way after %d renames, it is taken back", n), func(t *testing.T) {
			r := prepare(t)
			if err := r.decide(decision{Live: live}); err != nil {
				t.Fatal(err)
			}
			rename(t, forward(r)[:n])
			if err := r.reverse(); err != nil {
				t.Fatal(err)
			}
			if err := r.drop(); err != nil {
				t.Fatal(err)
			}
			expect(t, r, "old")
		})
		t.Run(fmt.Sprintf("taken back after %d renames, it goes on back", n), func(t *testing.T) {
			r := prepare(t)
			if err := r.exchange(live); err != nil {
				t.Fatal(err)
			}
			if err := r.decide(decision{Live: live, Back: true}); err != nil {
				t.Fatal(err)
			}
			rename(t, backward(r)[:n])
			if err := r.settle(); err != nil {
				t.Fatal(err)
			}
			expect(t, r, "old")
		})
	}
}

func mark(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "mark"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
