// Package history decides whether what the clients of a cluster saw can have
// happened.
//
// A run records every operation with the times of its call and its return,
// and what the watches delivered. Check has the verdict: each object must be a
// register with revisions that is read and written at one moment within each
// operation (linearizability, by porcupine), revisions must grow in real time,
// lists must be snapshots, and watches must deliver each write once and in
// order.
//
// An operation whose answer was lost may have happened, at any moment after
// its call, or never. It knows nothing of clusters, clients or clocks.
package history
