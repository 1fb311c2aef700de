// Package statefulset runs StatefulSets, in place of upstream's controller of
// the same name.
//
// The algorithm is upstream's, whole: statefulset.NewDefaultStatefulSetControl
// with its Pods, claims, revisions and status. What is ours is the loop around
// it, which decides when that is called. Upstream's returns an error each time
// the cache has not seen an own write yet, which is logged, backed off, and
// counted against ten retries a second for all StatefulSets together, and reads
// the machine's clock. Here the watch event that ends it is waited for, of
// claims too, and all time is the cluster's.
package statefulset
