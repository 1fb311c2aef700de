// Package namespace empties and finalizes terminating namespaces, in place of
// upstream's controller of the same name.
//
// The work is upstream's deletion library. What differs is when it is called:
// upstream waits 5 s after every event, so that the API servers and etcd
// members of an HA cluster have seen the deletion; it takes 10 s to delete a
// namespace with one Pod. Here the deleter runs at once, and again when the
// last Pod is gone.
//
// With one API server the name of a deleted namespace is looked up live by
// admission from the deletion on, so that only requests already past admission
// can still add something. Therefore the deleter runs twice before it
// finalizes: the first run that finds nothing left is not the one that ends it.
package namespace
