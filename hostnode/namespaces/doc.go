// Package namespaces makes machines out of kernel objects, from the host's
// side: cgroup directories with limits, a process 1 in its own namespaces and
// cgroups, its sockets handed over, commands run inside it, and the removal
// of all that by name.
//
// The other side, what process 1 does, is package pid1. Which machines there
// are, what they mount and which services they run is decided by package
// supervise, the only caller.
package namespaces
