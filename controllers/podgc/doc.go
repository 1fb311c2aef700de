// Package podgc deletes Pods that nobody else will, in place of upstream's
// pod-garbage-collector-controller: those whose node is gone, those that are
// being deleted and have no node or one that is out of service, and the oldest
// of those that have ended when there are too many.
//
// Upstream looks at all Pods every 20 seconds. Here a Pod is looked at when it
// changes or its node does. A node that is missing has upstream's 40 seconds to
// come back, exactly; then the API server itself is asked.
package podgc
