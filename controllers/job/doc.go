// Package job runs Jobs, in place of upstream's controller of the same name.
//
// Claiming Pods, creating and deleting them, expectations and the check that
// the cache has seen our own writes are upstream's packages; upstream keeps
// the rest of its controller to itself. What differs is time: upstream waits a
// second after each event of a Pod before it looks at the Job, a second and
// more after an error, and reads the machine's clock. Here every event is
// acted upon, many at once under load as the queue holds a Job only once, and
// all time is the cluster's.
//
// A Pod is counted once, whatever dies in between. It has a finalizer, and:
//
//	Pod ends → its UID into status.uncountedTerminatedPods → finalizer removed
//	  → UID out of the list and into the counter
//
// of which the first write also holds why a Job is about to end
// (FailureTarget, SuccessCriteriaMet), and the last how it has ended (Failed,
// Complete). Indexed Jobs need no list of what succeeded: the index is enough.
//
//	judge → planPods → (delete or create) → conclude → tally → (write, remove
//	finalizers) → settle → finish → (write)
//
// Pods whose Job is gone or over are left to orphans.go.
package job
