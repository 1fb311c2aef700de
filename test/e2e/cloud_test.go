package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// clouds are the drivers that upstream's in-tree volumes are translated to.
var clouds = []struct {
	inTree, driver string
	// inline and volume are a Pod's volume and a PersistentVolume's source
	// that name a volume.
	inline, volume string
	// shared drivers attach nothing.
	shared bool
}{
	{inTree: "kubernetes.io/gce-pd", driver: "pd.csi.storage.gke.io",
		inline: "gcePersistentDisk: {pdName: precious, fsType: ext4}", volume: "gcePersistentDisk: {pdName: static, fsType: ext4}"},
	{inTree: "kubernetes.io/aws-ebs", driver: "ebs.csi.aws.com",
		inline: "awsElasticBlockStore: {volumeID: vol-0123456789abcdef0}", volume: "awsElasticBlockStore: {volumeID: 'aws://us-east-1a/vol-0123456789abcdef1'}"},
	{inTree: "kubernetes.io/azure-disk", driver: "disk.csi.azure.com",
		inline: "azureDisk: {kind: Managed, diskName: d, diskURI: /subscriptions/s/resourceGroups/r/providers/Microsoft.Compute/disks/d}",
		volume: "azureDisk: {kind: Managed, diskName: e, diskURI: /subscriptions/s/resourceGroups/r/providers/Microsoft.Compute/disks/e}"},
	{inTree: "kubernetes.io/azure-file", driver: "file.csi.azure.com", shared: true,
		inline: "azureFile: {secretName: azure-storage-account-own-secret, shareName: precious}",
		volume: "azureFile: {secretName: azure-storage-account-own-secret, secretNamespace: default, shareName: static}"},
	{inTree: "kubernetes.io/cinder", driver: "cinder.csi.openstack.org",
		inline: "cinder: {volumeID: 11111111-2222-3333-4444-555555555555}", volume: "cinder: {volumeID: 11111111-2222-3333-4444-666666666666}"},
	{inTree: "kubernetes.io/vsphere-volume", driver: "csi.vsphere.vmware.com",
		inline: "vsphereVolume: {volumePath: '[ds] precious.vmdk'}", volume: "vsphereVolume: {volumePath: '[ds] static.vmdk'}"},
	{inTree: "kubernetes.io/portworx-volume", driver: "pxd.portworx.com", shared: true,
		inline: "portworxVolume: {volumeID: '111', fsType: ext4}", volume: "portworxVolume: {volumeID: '222', fsType: ext4}"},
}

// cloudPod writes its name into a volume, on one node.
func cloudPod(name, node, volume string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {cloud: pod}}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: %[2]s}
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, "echo %[1]s on %[2]s >> /data/diary && exec sleep 1000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, %[3]s}]
---
`, name, node, volume)
}

func claimOf(name string) string { return "persistentVolumeClaim: {claimName: " + name + "}" }

// cloudClass is a StorageClass with a claim of its name.
func cloudClass(name, provisioner, class, claim string) string {
	return fmt.Sprintf(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: %[1]s}
provisioner: %[2]s
allowVolumeExpansion: true
volumeBindingMode: WaitForFirstConsumer
%[3]s
---
`, name, provisioner, class) + cloudClaim(name, name, claim)
}

func cloudClaim(name, class, claim string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s}
spec:
  storageClassName: %[2]q
  resources: {requests: {storage: 64Mi}}
%[3]s
---
`, name, class, claim)
}

const rwo = "  accessModes: [ReadWriteOnce]"

var _ = Describe("the emulated cloud", Ordered, func() {
	var c cluster
	const config = `
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
nodes:
- role: control-plane
- role: worker
  labels: {topology.kubernetes.io/zone: us-east-1a, topology.kubernetes.io/region: us-east-1}
- role: worker
  labels: {topology.kubernetes.io/zone: us-east-1a, topology.kubernetes.io/region: us-east-1}
- role: worker
  labels: {topology.kubernetes.io/zone: us-east-1b, topology.kubernetes.io/region: us-east-1}
cloud:
  attachLimit: 4
`
	here, there := "cloud-worker", "cloud-worker2"
	diary := func(pod string) func() string {
		return func() string { return strings.TrimSpace(c.kubectl("exec", pod, "--", "cat", "/data/diary").out) }
	}
	BeforeAll(func() {
		var r result
		c, r = create("cloud", config)
		DeferCleanup(c.delete)
		r.must()
		c.loadImages()
	})

	It("is not there before an object names it", func() {
		Expect(c.get("csidrivers", "{.items[*].metadata.name}")).To(BeEmpty())
		Expect(c.get("csinodes", "{.items[*].spec.drivers[*].name}")).To(BeEmpty())
	})

	It("follows Pods to other nodes, by either name of a driver", func() {
		var first, second strings.Builder
		for i, cloud := range clouds {
			for j, provisioner := range []string{cloud.inTree, cloud.driver} {
				name := fmt.Sprintf("dynamic-%d-%d", i, j)
				first.WriteString(cloudClass(name, provisioner, "", rwo) + cloudPod(name+"-first", here, claimOf(name)))
				second.WriteString(cloudPod(name+"-second", there, claimOf(name)))
			}
		}
		c.apply(first.String()).must()
		c.kubectl("wait", "pod", "-l", "cloud=pod", "--for=condition=Ready", "--timeout=60s").must()
		for i, cloud := range clouds {
			count := c.get("csinode/"+here, `{.spec.drivers[?(@.name=="`+cloud.driver+`")].allocatable.count}`)
			if cloud.shared {
				Expect(count).To(BeEmpty(), cloud.driver)
			} else {
				Expect(count).To(Equal("4"), cloud.driver)
			}
			volume := c.get(fmt.Sprintf("pvc/dynamic-%d-0", i), "{.spec.volumeName}")
			if cloud.driver == "pd.csi.storage.gke.io" {
				// Google's region of the nodes' zone would be "us-east".
				Expect(c.get("pv/"+volume, "{.spec.csi.driver}")).To(Equal(cloud.driver), "the in-tree form would name a region that no node has")
				continue
			}
			Expect(c.get("pv/"+volume, "{.spec.csi}")).To(BeEmpty(), "an in-tree class makes in-tree volumes")
			Expect(c.get("pv/"+volume, `{.metadata.annotations.pv\.kubernetes\.io/migrated-to}`)).To(Equal(cloud.driver))
		}
		c.kubectl("delete", "pod", "-l", "cloud=pod", "--wait=true").must()
		c.apply(second.String()).must()
		c.kubectl("wait", "pod", "-l", "cloud=pod", "--for=condition=Ready", "--timeout=60s").must()
		for i := range clouds {
			for j := range 2 {
				name := fmt.Sprintf("dynamic-%d-%d", i, j)
				Expect(diary(name + "-second")()).To(Equal(name + "-first on " + here + "\n" + name + "-second on " + there))
			}
		}
	})

	It("grows volumes while they are used", func() {
		for i := range clouds {
			c.kubectl("patch", "pvc", fmt.Sprintf("dynamic-%d-0", i), "-p", `{"spec":{"resources":{"requests":{"storage":"128Mi"}}}}`).must()
		}
		for i, cloud := range clouds {
			name := fmt.Sprintf("dynamic-%d-0", i)
			Eventually(func() string {
				// The kubelet's part is done when it syncs the Pod, once a
				// minute; a change of the Pod makes it do so now.
				c.kubectl("annotate", "pod", name+"-second", "--overwrite", "sync="+time.Now().Format("15.04.05.000")).must()
				return c.get("pvc/"+name, "{.status.capacity.storage}")
			}).WithPolling(500*time.Millisecond).
				Should(Equal("128Mi"), cloud.driver)
		}
	})

	It("makes snapshots, and volumes of them", func() {
		const source, restored = "dynamic-1-1", "restored"
		c.apply(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: snaps}
driver: ebs.csi.aws.com
deletionPolicy: Delete
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: before}
spec:
  volumeSnapshotClassName: snaps
  source: {persistentVolumeClaimName: ` + source + `}
`).must()
		c.kubectl("wait", "volumesnapshot/before", "--for=jsonpath={.status.readyToUse}=true", "--timeout=60s").must()
		c.kubectl("exec", source+"-second", "--", "sh", "-c", "echo after >> /data/diary").must()
		c.apply(cloudClaim(restored, source, "  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: before}\n"+rwo) +
			cloudPod(restored+"-first", here, claimOf(restored))).must()
		c.kubectl("wait", "pod/"+restored+"-first", "--for=condition=Ready", "--timeout=60s").must()
		Expect(diary(restored + "-first")()).To(Equal(source + "-first on " + here + "\n" + source + "-second on " + there + "\n" + restored + "-first on " + here))
		c.kubectl("delete", "volumesnapshot/before", "--wait=true", "--timeout=60s").must()
		Expect(c.get("volumesnapshotcontents", "{.items[*].metadata.name}")).To(BeEmpty())
	})

	It("keeps its volumes when the cluster stops and starts", func() {
		skiff("stop", "cluster", "--name", c.name).must()
		skiff("start", "cluster", "--name", c.name).must()
		for i := range clouds {
			name := fmt.Sprintf("dynamic-%d-1", i)
			Eventually(diary(name + "-second")).Should(HavePrefix(name + "-first on " + here + "\n" + name + "-second on " + there))
		}
	})

	It("deletes volumes with their claims", func() {
		c.kubectl("delete", "pod", "-l", "cloud=pod", "--wait=true").must()
		c.kubectl("delete", "pvc", "--all", "--wait=true").must()
		Eventually(func() string { return c.get("pv", "{.items[*].metadata.name}") }).Should(BeEmpty())
		left, err := filepath.Glob("/var/lib/skiff/clusters/" + c.name + "/volumes/cloud/*/volumes/*")
		Expect(err).NotTo(HaveOccurred())
		Expect(left).To(BeEmpty())
	})

	It("has the volumes that in-tree objects name", func() {
		manifest := `
apiVersion: v1
kind: Secret
metadata: {name: azure-storage-account-own-secret}
---
`
		for i, cloud := range clouds {
			name := fmt.Sprintf("static-%d", i)
			manifest += cloudPod(fmt.Sprintf("inline-%d", i), here, cloud.inline) +
				cloudClaim(name, "", rwo+"\n  volumeName: "+name) +
				cloudPod(name, here, claimOf(name)) + fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  capacity: {storage: 64Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: default, name: %[1]s}
  %[2]s
---
`, name, cloud.volume)
		}
		c.apply(manifest).must()
		c.kubectl("wait", "pod", "-l", "cloud=pod", "--for=condition=Ready", "--timeout=60s").must()
		for i := range clouds {
			for _, name := range []string{"inline", "static"} {
				pod := fmt.Sprintf("%s-%d", name, i)
				Expect(diary(pod)()).To(Equal(pod + " on " + here))
			}
		}
		c.kubectl("delete", "pod", "-l", "cloud=pod", "--wait=true").must()
	})

	It("gives a disk to one node and a share to many", func() {
		c.apply(cloudClass("fenced", "ebs.csi.aws.com", "", rwo) + cloudPod("holder", here, claimOf("fenced")) +
			cloudClass("many", "kubernetes.io/azure-file", "", "  accessModes: [ReadWriteMany]") +
			cloudPod("left", here, claimOf("many"))).must()
		c.kubectl("wait", "pod/holder", "pod/left", "--for=condition=Ready", "--timeout=30s").must()
		c.apply(cloudPod("second", there, claimOf("fenced")) + cloudPod("right", "cloud-worker3", claimOf("many"))).must()
		c.kubectl("wait", "pod/right", "--for=condition=Ready", "--timeout=30s").must()
		Expect(diary("right")()).To(Equal("left on " + here + "\nright on cloud-worker3"))
		Eventually(func() string {
			return c.warnings("pod/second")
		}).Should(ContainSubstring("already used by pod(s) holder"))
		c.kubectl("delete", "pod", "holder", "--wait=true").must()
		c.kubectl("wait", "pod/second", "--for=condition=Ready", "--timeout=30s").must()

		// A disk for many is refused, as its cloud does.
		c.apply(cloudClass("refused", "pd.csi.storage.gke.io", "", "  accessModes: [ReadWriteMany]") +
			cloudPod("refused", here, claimOf("refused"))).must()
		Eventually(func() string {
			return c.warnings("pvc/refused")
		}).Should(ContainSubstring("one node at a time"))
	})

	It("has devices, clones, and zones", func() {
		c.apply(cloudClass("block", "kubernetes.io/cinder", "", rwo+"\n  volumeMode: Block") + `
apiVersion: v1
kind: Pod
metadata: {name: block}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, "echo written > /dev/data && exec sleep 1000"]
    volumeDevices: [{name: data, devicePath: /dev/data}]
  volumes: [{name: data, ` + claimOf("block") + `}]
---
` + cloudClaim("clone", "fenced", rwo+"\n  dataSource: {kind: PersistentVolumeClaim, name: fenced}") + cloudPod("clone", here, claimOf("clone")) +
			cloudClass("zonal", "kubernetes.io/aws-ebs", "allowedTopologies: [{matchLabelExpressions: [{key: topology.kubernetes.io/zone, values: [us-east-1b]}]}]", rwo) +
			strings.Replace(cloudPod("zonal", "x", claimOf("zonal")), "nodeSelector: {kubernetes.io/hostname: x}", "nodeSelector: {}", 1)).must()
		c.kubectl("wait", "pod/block", "pod/clone", "pod/zonal", "--for=condition=Ready", "--timeout=30s").must()
		Expect(c.kubectl("exec", "block", "--", "sh", "-c", "head -c 7 /dev/data").must()).To(Equal("written"))
		Expect(diary("clone")()).To(HavePrefix("holder on " + here))
		Expect(c.get("pod/zonal", "{.spec.nodeName}")).To(Equal("cloud-worker3"))
		volume := c.get("pvc/zonal", "{.spec.volumeName}")
		Expect(c.get("pv/"+volume, `{.metadata.labels.topology\.kubernetes\.io/zone}`)).To(Equal("us-east-1b"))
	})

	It("gives the host its devices back", func() {
		begin := time.Now()
		dir := "/var/lib/skiff/clusters/" + c.name
		Expect(loops()).To(ContainElement(ContainSubstring("/disk")))
		skiff("stop", "cluster", "--name", c.name).must()
		AddReportEntry("stopped after", time.Since(begin).String())
		Expect(loops()).NotTo(ContainElement(ContainSubstring("/disk")), dir)
	})
})

// loops lists the backing files of the host's loop devices.
func loops() []string {
	return strings.Fields(run("", "losetup", "--noheadings", "--list", "--output", "BACK-FILE").must())
}
