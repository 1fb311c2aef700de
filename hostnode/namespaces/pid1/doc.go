// Package pid1 is what runs as process 1 of a machine.
//
// The supervisor clones it into new mount, pid, uts and ipc namespaces, in
// the machine's network namespace and cgroups, and hands it the
// MachineConfiguration on descriptor 3. Boot makes the machine's root and
// moves into it; Services.Run then keeps the machine's services running,
// reaps every orphan, keeps the logs small and stops all in order on SIGTERM.
//
// It imports the standard library and golang.org/x/sys/unix only: there is
// one of it per machine, and it must stay tiny. It knows nothing of
// Kubernetes, containers or the network.
package pid1
