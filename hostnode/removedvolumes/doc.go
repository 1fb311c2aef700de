// Package removedvolumes are volume plugins for the volumes that upstream has
// removed from its kubelet without a CSI driver to translate them to, on the
// storage of the emulated cloud. The API still has their types.
//
// The plugins keep the names, the access modes and the ids that upstream's had
// (k8s.io/kubernetes v1.25 and before, pkg/volume). Disks (rbd, scaleIO,
// photonPersistentDisk, flocker) are attached to one node at a time by
// upstream's attach-detach controller; the others are mounted by any number of
// nodes.
//
//	kinds.go      what tells the eight kinds apart
//	spec.go       which volume an object names
//	plugin.go     a plugin, and how a Pod gets its volume
//	disk.go       attaching disks and mounting them
//	provision.go  volumes for StorageClasses with a kind's provisioner
//	grow.go       volumes that grow
package removedvolumes
