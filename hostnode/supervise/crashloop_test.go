package supervise

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func TestTheReasonIsTheLastErrorOfALog(t *testing.T) {
	for name, tt := range map[string]struct{ log, want string }{
		"nothing":  {},
		"no error": {log: "time=x level=INFO msg=started\n"},
		"the program's": {log: "Error: skiff-machine node: old\nlevel=INFO msg=\"Error: none\"\nError: skiff-machine node: open x: invalid database\n  Mend: y\n",
			want: "Error: skiff-machine node: open x: invalid database"},
		"a panic":         {log: "Error: old\npanic: boom\n\ngoroutine 1 [running]:\nmain.main()\n", want: "panic: boom"},
		"the runtime's":   {log: "fatal error: out of memory\n", want: "fatal error: out of memory"},
		"without an end":  {log: "Error: cut", want: "Error: cut"},
		"longer than all": {log: "Error: " + strings.Repeat("x", 2*longestReason), want: "Error: " + strings.Repeat("x", longestReason-len("Error: "))},
	} {
		if got := errorIn([]byte(tt.log)); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestTheReasonIsLookedForAtTheEndOfALargeLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "node.log")
	text := "Error: first\n" + strings.Repeat("level=INFO msg=more\n", logTail/10)
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastError(log); got != "" {
		t.Errorf("%q is of long ago", got)
	}
	if err := os.WriteFile(log, []byte(text+"Error: last\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastError(log); got != "Error: last" {
		t.Errorf("%q", got)
	}
	if got := lastError(log + ".none"); got != "" {
		t.Errorf("no log: %q", got)
	}
}

func TestAMachineThatRunsWellIsInNoCrashLoop(t *testing.T) {
	p := Paths{StateDir: t.TempDir(), RunDir: t.TempDir()}
	if got := p.machineCrashLoop("c", "n", time.Time{}); got != nil {
		t.Errorf("nothing was told: %v", got)
	}
	note := p.crashLoopNote("c", "n")
	data, err := json.Marshal(machine.CrashLoop{Ended: 3, Last: machineEnd})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(note), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(note, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		started time.Time
		want    int
	}{
		"down":             {want: 1},
		"started just now": {started: time.Now(), want: 1},
		"running well":     {started: time.Now().Add(-time.Minute)},
	} {
		got := p.machineCrashLoop("c", "n", tt.started)
		if len(got) != tt.want {
			t.Errorf("%s: %v", name, got)
		}
		if tt.want == 1 && (got[0].Ended != 3 || got[0].Log != p.SupervisorLog("c") || !strings.HasPrefix(got[0].String(), "the machine has ended 3 times since ")) {
			t.Errorf("%s: %v", name, got[0])
		}
	}
}
