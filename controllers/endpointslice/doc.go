// Package endpointslice keeps the EndpointSlices of Services with a selector,
// in place of upstream's controller of the same name.
//
// What goes into a slice is decided by upstream's library (k8s.io/endpointslice);
// here is when it is asked. Upstream waits one second when its own last write
// has not come back by watch yet, and one second after a foreign change of a
// slice; when Pods become ready one after the other, that second is what a
// client sees. Here the watch event itself is waited for.
package endpointslice
