package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// smallNode is a cluster whose worker is soon full.
const smallNode = `
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
nodes:
- role: control-plane
- role: worker
  resources: {cpu: "1", memory: 512Mi, pods: 8}
`

// takers are Pods that take more than they may, and one that is content.
const takers = `
apiVersion: v1
kind: Pod
metadata: {name: content}
spec:
  nodeName: small-worker
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/pause:3.10.2, resources: {limits: {cpu: 10m, memory: 16Mi}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: container}
spec:
  nodeName: small-worker
  restartPolicy: Never
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [dd, if=/dev/zero, of=/dev/null, bs=64M, count=1]
    resources: {limits: {memory: 16Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: together}
spec:
  nodeName: small-worker
  restartPolicy: Never
  resources: {limits: {memory: 16Mi}}
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [dd, if=/dev/zero, of=/dev/null, bs=64M, count=1]
`

// nodeTaker takes all but a little of the node's memory.
const nodeTaker = `
apiVersion: v1
kind: Pod
metadata: {name: node}
spec:
  nodeName: small-worker
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, "dd if=/dev/zero of=/memory/f bs=1M count=%d; sleep 1d"]
    volumeMounts: [{name: memory, mountPath: /memory}]
  volumes: [{name: memory, emptyDir: {medium: Memory}}]
`

// claimant is a Pod with a volume.
const claimant = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: vanishes}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: claimant}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/pause:3.10.2, volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: vanishes}}]
`

var _ = Describe("a node that is small", Ordered, func() {
	var c cluster
	BeforeAll(func() {
		var r result
		c, r = create("small", smallNode)
		DeferCleanup(c.delete)
		r.must()
		skiff("load", "image-archive", filepath.Join(root, "_output/images.tar"), "--name", c.name).must()
	})
	ended := func(pod string) string {
		return c.get("pod/"+pod, "{.status.phase} {.status.reason} {.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}")
	}

	It("takes as many Pods as it holds, and no more", func() {
		c.kubectl("create", "deployment", "many", "--image=registry.k8s.io/pause:3.10.2", "--replicas=20").must()
		Eventually(func() string {
			return c.get("pods", `{.items[?(@.spec.nodeName=="small-worker")].status.phase}`)
		}).Should(Equal(strings.TrimSpace(strings.Repeat("Running ", 8))))
		Eventually(func() string { return c.kubectl("get", "events", "--field-selector", "reason=FailedScheduling").out }).Should(ContainSubstring("Too many pods"))
		// Whoever goes past the scheduler is refused by the kubelet.
		c.apply(strings.ReplaceAll(takers[:strings.Index(takers, "---")], "content", "surplus")).must()
		Eventually(func() string { return c.get("pod/surplus", "{.status.phase} {.status.reason}") }).Should(Equal("Failed OutOfpods"))
		Expect(c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True True"))
		c.kubectl("delete", "deployment/many", "pod/surplus", "--now").must()
	})

	It("says which volume's directory has vanished, and goes on once it is back", func() {
		c.apply(claimant).must()
		c.kubectl("wait", "pod/claimant", "--for=condition=Ready", "--timeout=30s").must()
		dir := filepath.Join("/var/lib/skiff/clusters", c.name, "volumes", c.get("pvc/vanishes", "{.spec.volumeName}"))
		c.kubectl("delete", "pod/claimant", "--now").must()
		Expect(os.RemoveAll(dir)).To(Succeed())
		c.apply(claimant).must()
		Eventually(func() string {
			return c.kubectl("get", "events", "--field-selector", "reason=FailedMount,involvedObject.name=claimant").out
		}).Should(ContainSubstring("does not exist"))
		Expect(os.Mkdir(dir, 0o777)).To(Succeed())
		c.kubectl("wait", "pod/claimant", "--for=condition=Ready", "--timeout=60s").must()
	})

	It("names a damaged checkpoint of the kubelet, keeps the containers, and goes on without it", func() {
		c.kubectl("run", "kept", "--image=registry.k8s.io/pause:3.10.2", "--overrides", `{"spec": {"nodeName": "small-worker", "terminationGracePeriodSeconds": 0}}`).must()
		c.kubectl("wait", "pod/kept", "--for=condition=Ready", "--timeout=30s").must()
		container := c.get("pod/kept", "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
		file := filepath.Join("/var/lib/skiff/clusters", c.name, "machines/small-worker/var/lib/kubelet/allocated_pods_state")
		Expect(os.WriteFile(file, []byte("{"), 0o600)).To(Succeed())
		for _, pid := range c.find("skiff-machine node", "small-worker") {
			Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		}
		Eventually(func() string { return skiff("logs", "small-worker", "--name", c.name).out }).
			Should(MatchRegexp(`please drain this node and delete pod resource information checkpoint file .*/allocated_pods_state`))
		Expect(c.get("node/small-control-plane", `{.status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True"))

		Expect(os.Remove(file)).To(Succeed())
		c.kubectl("run", "next", "--image=registry.k8s.io/pause:3.10.2", "--overrides", `{"spec": {"nodeName": "small-worker", "terminationGracePeriodSeconds": 0}}`).must()
		c.kubectl("wait", "pod/next", "--for=condition=Ready", "--timeout=60s").must()
		Expect(c.get("pod/kept", "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")).To(Equal(container))
	})

	It("ends what takes more than it may, says why, and leaves the others alone", func() {
		c.apply(takers).must()
		c.kubectl("wait", "pod/content", "--for=condition=Ready", "--timeout=30s").must()
		was := c.get("pod/content", "{.status.containerStatuses[0].containerID}")
		Eventually(func() string { return ended("container") }).Should(Equal("Failed  OOMKilled 137"))
		Eventually(func() string { return ended("together") }).Should(Equal("Failed  OOMKilled 137"))

		// The kubelet evicts below 100 MiB.
		const left = 70 << 20
		var summary struct {
			Node struct {
				Memory struct{ AvailableBytes int64 }
			}
		}
		Expect(json.Unmarshal([]byte(c.kubectl("get", "--raw", "/api/v1/nodes/small-worker/proxy/stats/summary").must()), &summary)).To(Succeed())
		c.apply(fmt.Sprintf(nodeTaker, (summary.Node.Memory.AvailableBytes-left)>>20)).must()
		Eventually(func() string { return c.get("pod/node", "{.status.phase} {.status.reason}: {.status.message}") }).
			WithTimeout(60 * time.Second).Should(And(HavePrefix("Failed Evicted: "), ContainSubstring("low on resource: memory")))
		// Nor does it take more now, which upstream holds for five minutes.
		Expect(c.get("node/small-worker", `{.status.conditions[?(@.type=="MemoryPressure")].status}`)).To(Equal("True"))
		Expect(c.get("pod/content", "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")).To(Equal(was + " 0"))
		Expect(c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True True"))
	})
})
