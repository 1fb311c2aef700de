// Package replicaset keeps the number of Pods that a ReplicaSet asks for, in
// place of upstream's controller of the same name. As upstream's it does the
// same for ReplicationControllers, which it sees as ReplicaSets.
//
// Adoption, expectations, the order in which Pods are deleted and the check
// that the cache has seen our own writes are upstream's packages. What differs
// is what happens when the cache is behind: upstream returns an error, which
// is logged, backed off, and counted against ten retries a second for all
// ReplicaSets together. Here the watch event that ends it is waited for.
//
//	event → expectations met? ─no→ wait for events
//	             │ yes
//	      own writes seen? ─no→ wait for events
//	             │ yes
//	      claim Pods → create or delete the difference → write status
package replicaset
