package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
	"github.com/skiff-k8s/skiff/hostnode/namespaces/pid1"
)

// CrashLoop is a process of a machine, or the machine, that keeps ending soon
// after it is started.
type CrashLoop struct {
	machine.CrashLoop
	// Reason is the last error in its log; empty: there is none.
	Reason string `json:"reason,omitempty"`
	// Log is the file on the host to read.
	Log string `json:"log"`
}

// String is a sentence without its end.
func (c CrashLoop) String() string {
	what := "its process " + c.Service
	if c.Service == "" {
		what = "the machine"
	}
	text := fmt.Sprintf("%s has ended %d times since %s, the last time with %s", what, c.Ended, c.Since.Local().Format(time.DateTime), c.Last)
	if c.Reason != "" {
		text += ": " + c.Reason
	}
	return text
}

// crashLoops are those that the init of a machine that runs tells of.
func (p Paths) crashLoops(name, machineName string, proc *namespaces.Process) (all []CrashLoop) {
	files, err := filepath.Glob(inRoot(proc, machine.CrashLoopFile("*")))
	if err != nil {
		return nil
	}
	for _, file := range files {
		if c, err := readCrashLoop(file); err == nil {
			c.Log = p.Log(name, machineName, c.Service)
			c.Reason = lastError(c.Log)
			all = append(all, c)
		}
	}
	return all
}

// machineCrashLoop is what the supervisor tells of the machine itself: nothing
// of one that runs well. A machine that is down has no start.
func (p Paths) machineCrashLoop(name, machineName string, started time.Time) []CrashLoop {
	c, err := readCrashLoop(p.crashLoopNote(name, machineName))
	if err != nil || !started.IsZero() && pid1.Stable(time.Since(started)) {
		return nil
	}
	c.Log = p.SupervisorLog(name)
	return []CrashLoop{c}
}

func readCrashLoop(file string) (c CrashLoop, err error) {
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &c.CrashLoop)
	}
	return c, err
}

// crashed is an error of a cluster that does not get ready, with what keeps
// ending in its control planes, if something does. One that says already what
// the trouble is stays.
func (p Paths) crashed(rec *record, err error) error {
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		return err
	}
	if unanswered := p.unanswered(rec); unanswered != nil && !errors.Is(err, context.Canceled) {
		return unanswered
	}
	for _, m := range p.describe(rec).Machines {
		if m.Role == cluster.ControlPlaneRole && len(m.CrashLoops) > 0 {
			return &Refusal{Err: fmt.Errorf("%w: node %s: %v", err, m.Name, m.CrashLoops[0]), Help: "read " + m.CrashLoops[0].Log}
		}
	}
	return err
}

// logTail is how much of a log's end is looked at, in bytes: a panic with its
// goroutines.
const logTail = 256 << 10

// longestReason is what a reason has of a line, in bytes.
const longestReason = 400

// lastError is the last line of a log that says why a program ended: the one
// that it prints at its end, or the runtime's.
func lastError(log string) string {
	f, err := os.Open(log)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > logTail {
		if _, err := f.Seek(-logTail, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	return errorIn(data)
}

func errorIn(log []byte) (reason string) {
	for line := range bytes.Lines(log) {
		text := strings.TrimSpace(string(line))
		for _, start := range []string{"Error: ", "panic: ", "fatal error: "} {
			if strings.HasPrefix(text, start) {
				reason = text[:min(len(text), longestReason)]
			}
		}
	}
	return reason
}
