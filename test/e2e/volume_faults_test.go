package e2e

import (
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// A volume of StorageClass standard is a directory of the host's. When it is
// gone, its Pod has what upstream has for a path that is missing, and no new
// volume.
var _ = Describe("a volume whose directory is gone", Ordered, func() {
	var (
		c           cluster
		dir, aside  string
		event, wait string
	)
	BeforeAll(func() {
		var r result
		c, r = create("lost", "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes:\n- role: control-plane\n- role: worker\n")
		DeferCleanup(c.delete)
		r.must()
		c.apply(diary).must()
		c.kubectl("rollout", "status", "statefulset/diary", "--timeout=60s").must()
		volume := c.get("pvc/data-diary-0", "{.spec.volumeName}")
		dir = filepath.Join("/var/lib/skiff/clusters", c.name, "volumes", volume)
		aside = filepath.Join(filepath.Dir(dir), "aside")
		path := "/var/lib/skiff/volumes/" + volume
		event = `MountVolume.SetUp failed for volume "` + volume + `" : hostPath type check failed, ` + path +
			` is not a directory, unable to determine its type: path "` + path + `" does not exist`
		wait = "Pending ContainerCreating"
	})
	looks := func() string {
		return c.get("pod/diary-0", "{.status.phase} {.status.containerStatuses[0].state.waiting.reason}")
	}
	mounts := func() string {
		return c.warnings("pod/diary-0")
	}

	It("keeps its Pod waiting, says which one it is, and harms no other", func() {
		c.kubectl("scale", "statefulset/diary", "--replicas=0").must()
		c.kubectl("wait", "pod/diary-0", "--for=delete", "--timeout=60s").must()
		Expect(os.Rename(dir, aside)).To(Succeed())
		c.kubectl("scale", "statefulset/diary", "--replicas=1").must()
		Eventually(mounts).Should(And(ContainSubstring("FailedMount"), ContainSubstring(event)))
		Eventually(looks).Should(Equal(wait))
		Expect(c.get("pvc/data-diary-0", "{.status.phase}")).To(Equal("Bound"))

		// The next volume is made, on the same node.
		c.apply(another).must()
		c.kubectl("wait", "pod/another", "--for=condition=Ready", "--timeout=60s").must()
		Expect(c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True True"))
		Eventually(looks).Should(Equal(wait))
		Expect(dir).NotTo(BeAnExistingFile())
	})

	It("is not made by a stop and a start either", func() {
		skiff("restart", "cluster", "--name", c.name, "--now").must()
		c.kubectl("delete", "events", "--all").must()
		Eventually(mounts).WithTimeout(3 * time.Minute).Should(ContainSubstring(event))
		Eventually(looks).Should(Equal(wait))
		Expect(dir).NotTo(BeAnExistingFile())
		c.kubectl("wait", "pod/another", "--for=condition=Ready", "--timeout=60s").must()
	})

	It("is used when it is back, with all that it had", func() {
		Expect(os.Rename(aside, dir)).To(Succeed())
		Eventually(c.reads()).WithTimeout(3 * time.Minute).Should(Equal("up bye up"))
		c.kubectl("wait", "pod/diary-0", "--for=condition=Ready", "--timeout=60s").must()
	})
})

// another is a Pod with a claim of its own.
const another = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: another}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: another}
spec:
  nodeSelector: {kubernetes.io/hostname: lost-worker}
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/pause:3.10.2, volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: another}}]
`
