// Package volumesnapshots makes VolumeSnapshots of the emulated cloud's
// volumes: upstream's snapshot controller and, for each driver of ours, its
// sidecar, as in a cloud where the driver is installed
// (github.com/kubernetes-csi/external-snapshotter).
//
// Nothing of it runs, and there are no kinds of the group
// snapshot.storage.k8s.io, before a driver of ours appears. Kinds that are
// there by then are somebody else's, who also brings the snapshot controller;
// then only the sidecars are ours. Group snapshots are not made.
package volumesnapshots

//go:generate go run ./generate
