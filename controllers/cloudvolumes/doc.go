// Package cloudvolumes is the control-plane side of the emulated cloud: what
// external-provisioner, external-attacher and external-resizer do beside a
// cloud's CSI driver.
//
// Nothing exists for a driver until an object of the cluster names it: a
// StorageClass, a PersistentVolume or a Pod's volume, by the driver's name or
// by the one that the volume had in-tree. Then its CSIDriver is created, with
// a label that makes it ours, and nodes register the driver when they see it.
// A CSIDriver of that name without the label is somebody else's: all here
// keeps away from its volumes.
//
//	drivers.go     CSIDriver objects, when first needed
//	provision.go   claims get PersistentVolumes: topology.go says in which zone
//	reclaim.go     released PersistentVolumes are deleted
//	attach.go      VolumeAttachments
//	resize.go      claims that grow
//	modify.go      claims that change their VolumeAttributesClass
//
// The storage is called through CSI's own controller interface.
package cloudvolumes
