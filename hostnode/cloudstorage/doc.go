// Package cloudstorage is the storage of the emulated cloud: the CSI drivers
// to which upstream translates its in-tree volumes, on the host's disk.
//
// A volume is a directory of the cluster's, keyed by driver and volume id:
//
//	<root>/<driver>/volumes/<id>/volume.json   size, zone, who has it attached
//	                            /data/         a Filesystem volume, or
//	                            /disk          a Block volume or a file system in a file
//	<root>/<driver>/snapshots/<id>/            the same, of a moment
//	<root>/<driver>/known/<id>                 says that the volume was created
//	<root>/<driver>/nodes/<id>                 the zone of a node and its limit
//
// Every machine of the cluster has it at the same path, so a volume follows
// its Pod and outlives pods, nodes and reboots. What a cloud would refuse is
// refused: a second node, a node of another zone, one volume too many.
//
// A Driver is the three CSI services under one driver's name. The control
// plane calls the controller service and is the only one to change a volume;
// nodes serve the node service to their kubelet and mount what is attached to
// them. Volumes are built aside and published by one rename.
//
// The package knows nothing of Kubernetes.
package cloudstorage
