// Package daemonset runs DaemonSets, in place of upstream's controller of the
// same name.
//
// What is exported is upstream's: which nodes a Pod belongs on
// (daemon.NodeShouldRunDaemonPod), its template, tolerations and node affinity,
// and the numbers of a roll-out (daemon/util). The rest of upstream's package
// is not, and is written here as plans: what to create and delete from what is
// seen, in sorted order where upstream's is a map's.
//
// Upstream waits for its own writes by counting events, where one event can
// stand for another, and by an error and a back-off while the cache is behind.
// Here creations are waited for by the version of the cache, and a Pod that was
// deleted counts as such from then on. A node that goes is seen at once.
// All time is the cluster's, the queue's too.
package daemonset
