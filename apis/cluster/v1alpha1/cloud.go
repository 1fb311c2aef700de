package v1alpha1

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Cloud emulates the CSI drivers to which Kubernetes translates its in-tree
// volumes. Production's StorageClasses and PersistentVolumes work unchanged,
// with volumes on the host's disk. A driver costs nothing before an object of
// the cluster names it.
type Cloud struct {
	// Drivers are the CSI drivers that are emulated. Default: all of them; an
	// empty list emulates none. A driver of this list whose real one you
	// install before anything names it is left to that.
	Drivers *[]string `json:"drivers,omitempty"`
	// Filesystems is "directories" (volumes with volumeMode Filesystem are
	// directories: quick, without a size of their own) or "images" (each is a
	// file with the file system that its class asks for, of its size; needs
	// loop devices and mkfs of that file system on the host). Default
	// directories.
	Filesystems Filesystems `json:"filesystems,omitempty"`
	// MissingVolumes says what becomes of an in-tree volume or a
	// PersistentVolume with an id that the cloud does not know: "create" makes
	// an empty volume when it is first attached, "refuse" is what the real
	// cloud does. Default create.
	MissingVolumes MissingVolumes `json:"missingVolumes,omitempty"`
	// AttachLimit is the most volumes of one driver that a node can have
	// attached. Default: as in each cloud, for example 25 for ebs.csi.aws.com.
	AttachLimit int `json:"attachLimit,omitempty"`
	// CreateDelay is how long it takes to create a volume, AttachDelay to
	// attach or detach one, for example "2s". Default "0s".
	CreateDelay string `json:"createDelay,omitempty"`
	AttachDelay string `json:"attachDelay,omitempty"`
}

// Filesystems says what a Filesystem volume is.
type Filesystems string

// The values of Filesystems.
const (
	FilesystemDirectories Filesystems = "directories"
	FilesystemImages      Filesystems = "images"
)

// MissingVolumes says what becomes of volumes that nobody created.
type MissingVolumes string

// The values of MissingVolumes.
const (
	CreateMissingVolumes MissingVolumes = "create"
	RefuseMissingVolumes MissingVolumes = "refuse"
)

// cloudDrivers are all that can be emulated.
var cloudDrivers = []string{
	"pd.csi.storage.gke.io", "ebs.csi.aws.com", "disk.csi.azure.com", "file.csi.azure.com",
	"cinder.csi.openstack.org", "csi.vsphere.vmware.com", "pxd.portworx.com",
}

// longestDelay is as much as one step of a cloud may take: what waits for it
// in Kubernetes gives up after some minutes.
const longestDelay = 5 * time.Minute

// SetCloudDefaults fills in what c leaves open.
func SetCloudDefaults(c *Cloud) {
	if c.Drivers == nil {
		all := slices.Clone(cloudDrivers)
		c.Drivers = &all
	}
	setDefault(&c.Filesystems, FilesystemDirectories)
	setDefault(&c.MissingVolumes, CreateMissingVolumes)
	setDefault(&c.CreateDelay, "0s")
	setDefault(&c.AttachDelay, "0s")
}

func validateCloud(c *Cloud, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, name := range *c.Drivers {
		at := at.Child("drivers").Index(i)
		switch {
		case !slices.Contains(cloudDrivers, name):
			errs = append(errs, field.NotSupported(at, name, cloudDrivers))
		case seen[name]:
			errs = append(errs, field.Duplicate(at, name))
		}
		seen[name] = true
	}
	if c.Filesystems != FilesystemDirectories && c.Filesystems != FilesystemImages {
		errs = append(errs, field.NotSupported(at.Child("filesystems"), c.Filesystems, []Filesystems{FilesystemDirectories, FilesystemImages}))
	}
	if c.MissingVolumes != CreateMissingVolumes && c.MissingVolumes != RefuseMissingVolumes {
		errs = append(errs, field.NotSupported(at.Child("missingVolumes"), c.MissingVolumes, []MissingVolumes{CreateMissingVolumes, RefuseMissingVolumes}))
	}
	if c.AttachLimit < 0 {
		errs = append(errs, field.Invalid(at.Child("attachLimit"), c.AttachLimit, "at least 1; 0 is each cloud's own"))
	}
	return append(errs, slices.Concat(
		validateDelay(c.CreateDelay, at.Child("createDelay")), validateDelay(c.AttachDelay, at.Child("attachDelay")))...)
}

func validateDelay(text string, at *field.Path) field.ErrorList {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, text, "not a duration; try 2s")}
	case d < 0 || d > longestDelay:
		return field.ErrorList{field.Invalid(at, text, fmt.Sprintf("between 0s and %s", longestDelay))}
	}
	return nil
}
