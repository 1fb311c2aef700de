package pid1

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func TestACrashLoopIsToldUntilAStableRun(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	file := filepath.Join(t.TempDir(), "loop.json")
	c := NewCrashLoop(file, "node")
	for i, step := range []struct {
		ran  time.Duration
		last string
		// stable: the run after it was long, and the timer said so.
		stable bool
		want   machine.CrashLoop
	}{
		{ran: time.Hour, last: "killed"},
		{last: "exit 1"},
		{last: "exit 1", want: machine.CrashLoop{Service: "node", Ended: 3, Since: began, Last: "exit 1"}},
		{last: "killed", want: machine.CrashLoop{Service: "node", Ended: 4, Since: began, Last: "killed"}},
		{last: "exit 2", stable: true},
		{ran: stableRun, last: "exit 2"},
		{last: "exit 2"},
		{last: "exit 2", want: machine.CrashLoop{Service: "node", Ended: 3, Since: began.Add(5 * time.Second), Last: "exit 2"}},
		// The timer was late.
		{ran: stableRun, last: "exit 2"},
	} {
		if err := c.Ended(step.ran, began.Add(time.Duration(i)*time.Second), step.last); err != nil {
			t.Fatal(err)
		}
		if step.stable {
			if err := c.End(); err != nil {
				t.Fatal(err)
			}
		}
		var got machine.CrashLoop
		data, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(data, &got)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if got != step.want || c.told != (step.want.Ended > 0) {
			t.Errorf("end %d: %+v (told %v), want %+v", i+1, got, c.told, step.want)
		}
	}
}

func TestEndsThatAreFarApartAreNoLoop(t *testing.T) {
	file := filepath.Join(t.TempDir(), "loop.json")
	c := NewCrashLoop(file, "node")
	for range 10 {
		if err := c.Ended(stableRun, time.Now(), "killed"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was told: %v", err)
	}
}
