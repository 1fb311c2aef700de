package server

import (
	"runtime/debug"
	"sync"
	"time"
)

// HoldGC turns the garbage collector of this process off, for the time in
// which a control plane starts: it would spend a fifth of the CPU on a heap
// of which nothing can go yet. The function it returns turns the collector on
// again and, in the background after the first writes have settled, gives the
// memory of the start back to the kernel.
//
// It belongs first into main. The process keeps GOGC as it was set.
func HoldGC() (release func()) {
	percent := debug.SetGCPercent(-1)
	return sync.OnceFunc(func() {
		debug.SetGCPercent(percent)
		time.AfterFunc(500*time.Millisecond, debug.FreeOSMemory)
	})
}
