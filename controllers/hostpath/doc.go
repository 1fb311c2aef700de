// Package hostpath provisions volumes as directories of the cluster's volume
// directory, which every machine of the cluster has at the same path. It owns
// the provisioner name skiff.cluster/host-path and the StorageClass standard.
//
// Since all nodes see the same directory, a volume belongs to no node, may be
// ReadWriteMany, and follows its Pod. Sizes are not enforced.
//
// A claim is served when upstream's binder asks for it (by an annotation, after
// the scheduler has chosen a node), with a PersistentVolume named after the
// claim's UID. The volume's directory is removed when the binder has released
// it and its reclaim policy is Delete; a finalizer keeps the object until then.
// The directory's name is computed from the PersistentVolume's, never read from
// an object.
//
// Only the provisioner makes directories, and a restore of a snapshot, for
// volumes that have none. One that vanishes otherwise is missed: Pods that ask
// for its volume have FailedMount events with its path and wait until it is
// back, as with any hostPath of type Directory. Volumes of clusters that an
// older skiff made keep the type DirectoryOrCreate, as a volume's source never
// changes: theirs begin anew.
package hostpath
