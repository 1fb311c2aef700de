package cloudstorage

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
)

// project stands where a cloud has an account's name.
const project = "skiff"

// volumeID is the id of a new volume, as its cloud writes it. The same name
// always gives the same volume.
func volumeID(driver, name, zone string) string {
	sum := sha256.Sum256([]byte(driver + "/" + name))
	digest := hex.EncodeToString(sum[:])
	switch driver {
	case "pd.csi.storage.gke.io":
		if zone == "" {
			zone = "local"
		}
		return fmt.Sprintf("projects/%s/zones/%s/disks/%s", project, zone, name)
	case "ebs.csi.aws.com":
		return "vol-" + digest[:17]
	case "disk.csi.azure.com":
		return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/disks/%s", project, project, name)
	case "file.csi.azure.com":
		return fmt.Sprintf("%s#%s#%s#", project, project, name)
	case "csi.vsphere.vmware.com":
		return fmt.Sprintf("[%s] fcd/%s.vmdk", project, digest[:32])
	case "pxd.portworx.com":
		return fmt.Sprint(binary.BigEndian.Uint64(sum[:]) >> 1)
	}
	return fmt.Sprintf("%s-%s-%s-%s-%s", digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32])
}

// snapshotID is the id of a new snapshot.
func snapshotID(driver, name string) string {
	sum := sha256.Sum256([]byte(driver + "/" + name))
	return "snap-" + hex.EncodeToString(sum[:])[:17]
}

// canonical is the part of a volume's id that says which volume it is. In-tree
// objects leave out the project and the zone of a disk, and have their own
// name in the id of a share.
func canonical(driver, id string) string {
	switch driver {
	case "pd.csi.storage.gke.io":
		return id[strings.LastIndexByte(id, '/')+1:]
	case "disk.csi.azure.com":
		return strings.ToLower(id)
	case "file.csi.azure.com":
		if parts := strings.Split(id, "#"); len(parts) >= 3 {
			return parts[1] + "#" + parts[2]
		}
	}
	return id
}

// longestName is what a file's name has room for.
const longestName = 200

// fileName is an id as the name of a directory.
func fileName(id string) string {
	name := url.QueryEscape(id)
	if name == "" || name[0] == '.' || len(name) > longestName {
		sum := sha256.Sum256([]byte(id))
		return "sha256-" + hex.EncodeToString(sum[:])
	}
	return name
}

// nodeID is the name by which a driver attaches volumes to a node.
func nodeID(driver, node, zone string) string {
	if driver != "pd.csi.storage.gke.io" {
		return node
	}
	if zone == "" {
		zone = "local"
	}
	return fmt.Sprintf("projects/%s/zones/%s/instances/%s", project, zone, node)
}
