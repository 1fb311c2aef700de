// Package cloud serves the CSI drivers of the emulated cloud to the node's
// kubelet.
//
// It is a volume plugin of the kubelet's that supports no volume: it is there
// to be given the kubelet's own view of CSIDriver objects. A driver starts, at
// a unix socket like any other, when its CSIDriver appears with the label of
// the emulated cloud, and is registered by the handler that the kubelet has
// for driver registrations. Until then there is nothing of it but this
// package's one goroutine, and no request more to the API server.
package cloud
