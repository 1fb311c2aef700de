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
	// heapLook is how often an idle process may give memory back. For a node
	// that is 12 ms of processor time, and four megabytes.
	heapLook = 30 * time.Second
)

// settled makes this process cheap to keep once its start is over, and whenever
// there is nothing to do later. What is not possible is no reason to end.
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
	var heap settle.Heap
	look := time.NewTicker(heapLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			heap.Look()
		}
	}
}
