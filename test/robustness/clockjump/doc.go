// Package clockjump sets the clock of one process apart from the machine's.
//
// Programs read the time in the vDSO, code that the kernel maps into each of
// them: a namespace for CLOCK_REALTIME does not exist, and nothing can be
// preloaded into a static program. So the entry of clock_gettime in the
// process's own copy of that code is written over, by one that asks the kernel
// and adds an offset to CLOCK_REALTIME. What the process runs later has the
// machine's clock.
package clockjump
