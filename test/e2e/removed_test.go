package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// removed are the volumes that upstream has removed from its kubelet: the same
// one in a Pod and in a PersistentVolume.
var removed = []struct {
	kind, inline, volume string
	// disk is for one node at a time.
	disk bool
}{
	{"rbd", "rbd: {monitors: ['192.0.2.1:6789'], pool: kube, image: precious, secretRef: {name: key}}",
		"rbd: {monitors: ['192.0.2.1:6789'], pool: kube, image: precious, secretRef: {name: key}}", true},
	{"scaleio", "scaleIO: {gateway: 'https://192.0.2.1/api', system: s, volumeName: precious, secretRef: {name: key}, fsType: xfs}",
		"scaleIO: {gateway: 'https://192.0.2.1/api', system: s, volumeName: precious, secretRef: {name: key}, fsType: xfs}", true},
	{"photon-pd", "photonPersistentDisk: {pdID: precious}", "photonPersistentDisk: {pdID: precious}", true},
	{"flocker", "flocker: {datasetName: precious}", "flocker: {datasetName: precious}", true},
	{"storageos", "storageos: {volumeName: precious}", "storageos: {volumeName: precious, volumeNamespace: default}", false},
	{"glusterfs", "glusterfs: {endpoints: servers, path: precious/part}", "glusterfs: {endpoints: servers, path: precious/part}", false},
	{"cephfs", "cephfs: {monitors: ['192.0.2.1:6789', '192.0.2.2:6789'], secretRef: {name: key}}",
		"cephfs: {monitors: ['192.0.2.2:6789', '192.0.2.1:6789'], secretRef: {name: key}}", false},
	{"quobyte", "quobyte: {registry: '192.0.2.1:7861', volume: precious}", "quobyte: {registry: '192.0.2.1:7861', volume: precious}", false},
}

// staticVolume is a PersistentVolume bound to a claim of its name.
func staticVolume(name, modes, source string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  capacity: {storage: 64Mi}
  accessModes: [%[2]s]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: default, name: %[1]s}
  %[3]s
---
`, name, modes, source) + cloudClaim(name, "", "  accessModes: ["+modes+"]\n  volumeName: "+name)
}

var _ = Describe("removed volumes", Ordered, func() {
	var c cluster
	const config = `
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
nodes:
- role: control-plane
- role: worker
- role: worker
cloud: {drivers: []}
removedVolumes: emulate
`
	here, there := "removed-worker", "removed-worker2"
	diary := func(pod string) string {
		return strings.TrimSpace(c.kubectl("exec", pod, "--", "cat", "/data/diary").out)
	}
	ready := func(what ...string) {
		GinkgoHelper()
		c.kubectl(append(append([]string{"wait"}, what...), "--for=condition=Ready", "--timeout=110s")...).must()
	}
	warning := func(object, text string) {
		GinkgoHelper()
		Eventually(func() string {
			return c.warnings(object)
		}).WithTimeout(time.Minute).Should(ContainSubstring(text))
	}
	BeforeAll(func() {
		var r result
		c, r = create("removed", config)
		DeferCleanup(c.delete)
		r.must()
		c.loadImages()
	})

	It("follow Pods, from an inline volume to a PersistentVolume", func() {
		var first, second strings.Builder
		for _, v := range removed {
			first.WriteString(cloudPod(v.kind+"-first", here, v.inline))
			modes := "ReadWriteMany"
			if v.disk || v.kind == "storageos" {
				modes = "ReadWriteOnce"
			}
			second.WriteString(staticVolume(v.kind, modes, v.volume) + cloudPod(v.kind+"-second", there, claimOf(v.kind)))
		}
		c.kubectl("create", "secret", "generic", "key", "--from-literal=key=k").must()
		// Upstream deletes Endpoints without a Service.
		c.apply("apiVersion: v1\nkind: Service\nmetadata: {name: servers}\nspec: {ports: [{port: 1}]}\n---\napiVersion: v1\nkind: Endpoints\nmetadata: {name: servers}").must()
		c.apply(first.String() + cloudPod("fenced-first", here, "photonPersistentDisk: {pdID: fenced}")).must()
		ready("pod", "-l", "cloud=pod")
		// A share has many nodes, a disk one.
		c.apply(second.String() + cloudPod("fenced-second", there, "photonPersistentDisk: {pdID: fenced}")).must()
		ready("pod/storageos-second", "pod/glusterfs-second", "pod/cephfs-second", "pod/quobyte-second")
		warning("pod/rbd-second", "already used by pod(s) rbd-first")
		warning("pod/fenced-second", "volume fenced is attached to "+here)
		c.kubectl("delete", "pod", "fenced-first", "fenced-second").must()
		for _, v := range removed {
			c.kubectl("delete", "pod", v.kind+"-first", "--wait=false").must()
		}
		ready("pod", "-l", "cloud=pod")
		for _, v := range removed {
			Expect(diary(v.kind + "-second")).To(And(HavePrefix(v.kind+"-first on "+here), ContainSubstring(v.kind+"-second on "+there)))
		}
	})

	It("are read-only, a group's, a directory, or a claim's, as the Pod says", func() {
		c.apply(cloudClass("claimed", "kubernetes.io/rbd", "parameters: {monitors: '192.0.2.1:6789'}", rwo) + cloudPod("claimed", here, claimOf("claimed")) + `
apiVersion: v1
kind: Pod
metadata: {name: careful}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: ` + here + `}
  securityContext: {fsGroup: 1234}
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, "echo part > /part/file && exec sleep 1000"]
    volumeMounts: [{name: data, mountPath: /data}, {name: other, mountPath: /part, subPath: deep/er}]
  volumes:
  - name: data
    quobyte: {registry: '192.0.2.1:7861', volume: precious, readOnly: true}
  - name: other
    rbd: {monitors: ['192.0.2.1:6789'], image: other}
---
` + cloudPod("no-key", here, "cephfs: {monitors: ['192.0.2.1:6789'], secretRef: {name: missing}}") +
			cloudPod("no-servers", here, "glusterfs: {endpoints: missing, path: v}")).must()
		warning("pod/no-key", `secrets "missing" not found`)
		warning("pod/no-servers", `endpoints "missing" not found`)
		ready("pod/careful", "pod/claimed")
		c.kubectl("patch", "pvc", "claimed", "-p", `{"spec":{"resources":{"requests":{"storage":"128Mi"}}}}`).must()
		Eventually(func() string {
			c.kubectl("annotate", "pod", "claimed", "--overwrite", "sync="+time.Now().Format("15.04.05.000")).must() // see cloud_test.go
			return c.get("pvc/claimed", "{.status.capacity.storage}")
		}).WithPolling(500 * time.Millisecond).Should(Equal("128Mi"))
		Expect(c.kubectl("exec", "careful", "--", "touch", "/data/new").errOut).To(ContainSubstring("Read-only file system"))
		Expect(c.kubectl("exec", "careful", "--", "stat", "-c", "%g", "/part").must()).To(HavePrefix("1234"))
		c.kubectl("delete", "pod", "careful", "no-key", "no-servers", "--wait=true").must()
	})

	It("keep their data when the cluster stops and starts", func() {
		skiff("stop", "cluster", "--name", c.name).must()
		skiff("start", "cluster", "--name", c.name).must()
		ready("pod", "-l", "cloud=pod")
		for _, v := range removed {
			Expect(diary(v.kind + "-second")).To(HavePrefix(v.kind + "-first on " + here))
		}
		c.kubectl("delete", "pod", "--all", "--wait=true").must()
		c.kubectl("delete", "pvc", "--all", "--wait=true").must()
		Eventually(func() string { return c.get("pv", "{.items[*].spec.persistentVolumeReclaimPolicy}") }).ShouldNot(ContainSubstring("Delete"))
		left, err := filepath.Glob("/var/lib/skiff/clusters/" + c.name + "/volumes/cloud/*/volumes/*pvc-*")
		Expect(err).NotTo(HaveOccurred())
		Expect(left).To(BeEmpty())
	})
})
