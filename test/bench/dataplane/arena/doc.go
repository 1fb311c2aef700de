// Package arena is where the dataplane benchmark takes place: nodes, each a
// network namespace with one pod, joined by a routed switch as skiff's own
// are. It lives in namespaces that end with the benchmark: no link of it leads
// to the host, no process, mount or route outlives it.
package arena
