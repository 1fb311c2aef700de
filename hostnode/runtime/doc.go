// Package runtime is containerd inside the node process: upstream's server
// with the plugins chosen in code, and skiff's own plugins beside them.
//
//   - sandbox: makes a pod's namespaces without a shim and a runc run
//   - nodeshim: one shim process for all containers of the node
//   - network: CNI as a function call
//   - images: images of the host's shared store appear on the node when they
//     are asked for
//
// Callers get the CRI as Go interfaces; calls stay in the process. The same
// service listens on a unix socket for crictl.
//
// Containers do not depend on the process: after its death the next one
// adopts them.
package runtime
