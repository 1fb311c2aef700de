package pidfd

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return p
}

func TestWaitTellsHowAChildEnded(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137} {
		p := start(t, script)
		status, err := p.Wait(t.Context())
		if err != nil || status.Code != want {
			t.Errorf("%s: code %d, %v; want %d", script, status.Code, err, want)
		}
		if err := p.Kill(unix.SIGTERM); err != nil {
			t.Errorf("signal to what has ended: %v", err)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	p := start(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("wait: %v", err)
	}
	if err := p.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	unix.Wait4(p.PID, nil, 0, nil)
}

func TestOpenKnowsAnotherProcessByItsStart(t *testing.T) {
	p := start(t, "exec sleep 60")
	same, err := Open(p.PID, p.StartTime)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.PID, p.StartTime+1); !errors.Is(err, unix.ESRCH) {
		t.Errorf("open of a pid given out again: %v", err)
	}
	if err := same.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	status, err := p.Wait(t.Context())
	if err != nil || status.Code != 137 {
		t.Errorf("code %d, %v", status.Code, err)
	}
	if _, err := same.Wait(t.Context()); err != nil { // reaped by the other
		t.Error(err)
	}
	if err := same.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Open(p.PID, p.StartTime); !errors.Is(err, unix.ESRCH) {
		t.Errorf("open of what has ended: %v", err)
	}
}
