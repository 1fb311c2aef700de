// Package nodelifecycle says in taints and conditions whether nodes are alive,
// in place of upstream's node-lifecycle-controller.
//
// A kubelet lives as long as its lease or its status moves. A node whose
// kubelet has been silent for too long gets conditions Unknown, and its Pods
// are no longer ready. Conditions become taints: NoSchedule at once, NoExecute
// (which evicts) one node in ten seconds per zone, slower or not at all when
// too many nodes of the zone, or all nodes, are in trouble: then it is more
// likely us.
//
// Upstream looks at all nodes every five seconds, and waits 100 ms and more
// after a conflict with another writer, of which a new node has several: a
// node that is Ready stays tainted for so long. Here every change of a node is
// looked at when it happens, a node that is silent exactly when its time is
// up, and nothing is looked at in between.
package nodelifecycle
