package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/skiff-k8s/skiff/hostnode/settle"
)

const (
	// settleAfter is how long a process that has started may go on using what
	// its start took: by then the first watches and writes are through.
	settleAfter = 5500 * time.Millisecond
	// timerSlack is below all that users wait for, and makes one wake-up of
	// the many that a second has otherwise.
	timerSlack = 5 * time.Millisecond
)

// settled makes this process cheap to keep once its start is over. What is not
// possible is no reason to end.
func settled(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(settleAfter):
	}
	if err := settle.Memory(); err != nil {
		slog.Warn("memory of the start kept", "error", err)
	}
	if err := settle.Timers(timerSlack); err != nil {
		slog.Warn("every timer wakes the process", "error", err)
	}
	return nil
}
