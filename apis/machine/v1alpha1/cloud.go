package v1alpha1

import "time"

// CloudDir is where the emulated cloud has its volumes: the same directory in
// every machine of the cluster.
const CloudDir = VolumesDir + "/cloud"

// Cloud is the `cloud` section of the config file, for the programs of a
// machine.
type Cloud struct {
	// Drivers are the names of the CSI drivers that are emulated.
	Drivers []string `json:"drivers,omitempty"`
	// Images says that new Filesystem volumes are file systems of their size
	// in files, not directories.
	Images bool `json:"images,omitempty"`
	// CreateMissing says that a volume which an object names, and which nobody
	// has created, is created when it is attached.
	CreateMissing bool `json:"createMissing,omitempty"`
	// AttachLimit is the most volumes of a driver that a node has attached;
	// zero: as many as the driver's cloud allows.
	AttachLimit int `json:"attachLimit,omitempty"`
	// RemovedVolumes says that the volumes which upstream has removed from its
	// kubelet are on the same storage.
	RemovedVolumes bool `json:"removedVolumes,omitempty"`
	// CreateDelay and AttachDelay are how long creating, and attaching or
	// detaching, takes.
	CreateDelay time.Duration `json:"createDelay,omitempty"`
	AttachDelay time.Duration `json:"attachDelay,omitempty"`
}

// CloudDriver is what distinguishes the CSI driver of one cloud.
type CloudDriver struct {
	// Name is the CSI driver's.
	Name string
	// ZoneKey is the topology key with the zone of nodes and volumes; empty:
	// volumes are reachable from everywhere.
	ZoneKey string
	// Shared drivers serve many nodes at once and attach nothing.
	Shared bool
	// AskToShare is the parameter that a StorageClass of a shared driver sets
	// for volumes that several nodes write to; empty: all are.
	AskToShare string
	// ReadOnlyMany says that several nodes may attach a volume to read it.
	ReadOnlyMany bool
	// AttachLimit is the usual most volumes of a node; zero: none.
	AttachLimit int
	// NamedByUser says that the name of a volume is its id.
	NamedByUser bool
	// Attributes are the parameters that a VolumeAttributesClass may have, in
	// lower case; a number may follow. None: volumes keep what they are made
	// with.
	Attributes map[string]AttributeKind
	// FSGroupPolicy, FSType and PodInfo are what the driver is installed with.
	FSGroupPolicy string
	FSType        string
	PodInfo       bool
}

// AttributeKind is what values an attribute has.
type AttributeKind string

// Kinds of attributes.
const (
	TextAttribute     AttributeKind = "text"
	IntegerAttribute  AttributeKind = "whole number"
	QuantityAttribute AttributeKind = "quantity"
)

// CloudDrivers are those to which upstream translates its in-tree volumes.
func CloudDrivers() []CloudDriver {
	const byType, always = "ReadWriteOnceWithFSType", "File"
	pd := map[string]AttributeKind{"iops": IntegerAttribute, "throughput": QuantityAttribute}
	ebs := map[string]AttributeKind{
		"type": TextAttribute, "volumetype": TextAttribute, "iops": IntegerAttribute, "throughput": IntegerAttribute,
		"tagspecification": TextAttribute, "tagdeletion": TextAttribute,
	}
	azure := map[string]AttributeKind{
		"skuname": TextAttribute, "storageaccounttype": TextAttribute,
		"diskiopsreadwrite": IntegerAttribute, "diskmbpsreadwrite": IntegerAttribute,
	}
	return []CloudDriver{
		{Name: "pd.csi.storage.gke.io", ZoneKey: "topology.gke.io/zone", ReadOnlyMany: true, AttachLimit: 127, Attributes: pd, FSGroupPolicy: byType, FSType: "ext4"},
		{Name: "ebs.csi.aws.com", ZoneKey: "topology.ebs.csi.aws.com/zone", AttachLimit: 25, Attributes: ebs, FSGroupPolicy: always, FSType: "ext4"},
		{Name: "disk.csi.azure.com", ZoneKey: "topology.disk.csi.azure.com/zone", AttachLimit: 16, Attributes: azure, FSGroupPolicy: always, FSType: "ext4"},
		{Name: "file.csi.azure.com", Shared: true, FSGroupPolicy: byType, PodInfo: true},
		{Name: "cinder.csi.openstack.org", ZoneKey: "topology.cinder.csi.openstack.org/zone", AttachLimit: 256, FSGroupPolicy: byType, FSType: "ext4"},
		{Name: "csi.vsphere.vmware.com", ZoneKey: "topology.csi.vmware.com/zone", AttachLimit: 59, FSGroupPolicy: byType, FSType: "ext4"},
		{Name: "pxd.portworx.com", Shared: true, AskToShare: "shared", FSGroupPolicy: always, PodInfo: true, FSType: "ext4"},
	}
}

// RemovedVolumes are the storages whose volumes upstream has removed from its
// kubelet without a CSI driver to translate them to. Their names are those of
// the plugins that upstream had, without its prefix.
func RemovedVolumes() []CloudDriver {
	return []CloudDriver{
		{Name: "rbd", NamedByUser: true, ReadOnlyMany: true},
		{Name: "scaleio", NamedByUser: true, ReadOnlyMany: true},
		{Name: "photon-pd", NamedByUser: true},
		{Name: "flocker", NamedByUser: true},
		{Name: "storageos", NamedByUser: true, Shared: true},
		{Name: "glusterfs", NamedByUser: true, Shared: true},
		{Name: "cephfs", NamedByUser: true, Shared: true},
		{Name: "quobyte", NamedByUser: true, Shared: true},
	}
}

// CloudMark is the label of CSIDriver objects that are served by the emulated
// cloud: a driver of the same name without it is somebody else's.
const CloudMark = "skiff.cluster/emulated-cloud"
