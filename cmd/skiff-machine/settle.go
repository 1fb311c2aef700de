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
	// Looks at the heap of an idle node give back two megabytes, for some 6 ms
	// of processor time; those at a control plane's twenty.
	nodeLook, nodeShare                 = 20 * time.Second, 8
	controlPlaneLook, controlPlaneShare = 30 * time.Second, 3
)

// settled makes this process cheap to keep once its start is over, and whenever
// there is nothing to do later, at every look. What is not possible is no reason
// to end.
func settled(ctx context.Context, every time.Duration, share uint64) error {
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
	heap := settle.Heap{Share: share}
	heap.Look()
	look := time.NewTicker(every)
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
