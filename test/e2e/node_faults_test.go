package e2e

import (
	"strings"

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

var _ = Describe("a node that is small", Ordered, func() {
	var c cluster
	BeforeAll(func() {
		var r result
		c, r = create("small", smallNode)
		DeferCleanup(c.delete)
		r.must()
		c.loadImages()
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
		// The next ones need their room.
		Eventually(func() string { return c.get("pods", "{.items[*].metadata.name}") }).Should(BeEmpty())
	})

	It("ends what takes more than it may, says why, and leaves the others alone", func() {
		c.apply(takers).must()
		c.kubectl("wait", "pod/content", "--for=condition=Ready", "--timeout=30s").must()
		was := c.get("pod/content", "{.status.containerStatuses[0].containerID}")
		Eventually(func() string { return ended("container") }).Should(Equal("Failed  OOMKilled 137"))
		Eventually(func() string { return ended("together") }).Should(Equal("Failed  OOMKilled 137"))

		Expect(c.get("pod/content", "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")).To(Equal(was + " 0"))
		Expect(c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True True"))
	})
})
