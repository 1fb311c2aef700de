// Package supervise is the machine room: it makes clusters out of machines,
// keeps them running and takes them away.
//
// A cluster is one directory (Paths.Cluster) that is built aside and
// published by one rename, and its run state (Paths.Run). One supervisor
// process per cluster, Run, starts the machines, watches and restarts them
// and wires their cables; it outlives the command that created the cluster,
// and a watcher process starts it again when it dies. Machines outlive both:
// a new supervisor finds them by process id and start time.
//
// A stopped cluster is its directory and nothing else. Whether a cluster is
// meant to run is a file in there, from create or start to stop or delete:
// nobody starts a supervisor without it, and a start finds and takes away what
// a stop, a start or a life that was cut off left behind.
//
// A snapshot is what a cluster's control plane is made of, in the host's store
// (package snapshot): CreateSnapshot saves it, RestoreSnapshot makes a cluster
// of it again, in its place or beside it.
//
// The other functions are the verbs of the command line. They need no
// supervisor: they find things by the cluster's name, so that a half-made or
// half-dead cluster can be listed and deleted like a whole one. Two commands
// on one cluster are serialized by a lock file.
//
// It knows nothing of Pods or any other API object.
package supervise
