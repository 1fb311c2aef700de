// Package sandbox is a containerd sandbox controller that makes a pod's
// namespaces itself: one fork of skiff-pause instead of a shim process and a
// runc container per pod.
//
// CRI makes the network namespace and calls the network plugin; this package
// adds the IPC, UTS, PID and user namespaces that the pod asked for, the
// sysctls, /dev/shm, and the pod's hostname, hosts and resolv.conf files.
// Containers then join the namespaces of the pause process, and the one shim
// of the node, whose address the controller hands to CRI.
//
// What is known of a running sandbox is in one JSON file on tmpfs, so that a
// new node process adopts all sandboxes of the one before it; after a reboot
// the file is gone and the sandbox is reported as not ready.
package sandbox
