package supervise

import (
	"errors"
	"iter"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// killAfter runs a verb in a process of its own and kills it after a while, if
// it still runs.
func killAfter(t *testing.T, after time.Duration, verb, name string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", verb, name)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	defer kill.Stop()
	_ = cmd.Wait() // killed, or faster
}

func TestACreateOrDeleteMayBeKilledAtAnyStep(t *testing.T) {
	needRoot(t)
	const name = "svt-cut9"
	before := inventory()
	gone := func(t *testing.T) {
		t.Helper()
		if err := Delete(t.Context(), name); err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if left := difference(before, inventory()); len(left) > 0 {
			t.Fatalf("left behind: %q", left)
		}
	}
	whole := func(t *testing.T) {
		t.Helper()
		info, err := Create(t.Context(), CreateOptions{Cluster: testCluster(name, 1)})
		if errors.Is(err, ErrExists) {
			// It was published: what of it does not run yet is started.
			info, err = Start(t.Context(), name, StartOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		// A supervisor that was at it already may not be done with all machines.
		eventually(t, "all machines", func() bool { return describe(t, name).State == Running && serves(info) })
	}
	for after := range moments(120*time.Millisecond, 10*time.Millisecond) {
		t.Run("create killed after "+after.String(), func(t *testing.T) {
			killAfter(t, after, "create", name)
			whole(t)
			gone(t)
			killAfter(t, after, "create", name)
			gone(t)
		})
		t.Run("delete killed after "+after.String(), func(t *testing.T) {
			whole(t)
			killAfter(t, after, "delete", name)
			gone(t)
			whole(t)
			killAfter(t, after, "delete", name)
			whole(t)
			gone(t)
		})
	}
}

// moments are when commands are killed: from their start to last, step apart.
// The race detector makes a command so slow that there are fewer of them.
func moments(last, step time.Duration) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		for after := time.Duration(0); after <= last; after += slow * step {
			if !yield(after) {
				return
			}
		}
	}
}
