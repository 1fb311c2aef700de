package e2e

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("devices of a plugin", Ordered, func() {
	const node = "e2e-worker"
	// The plugin is upstream's sample, with two devices, each of which is a file
	// in /tmp of the node.
	const plugin = `
apiVersion: v1
kind: Pod
metadata: {name: device-plugin, labels: {devices: pod}}
spec:
  nodeName: e2e-worker
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/sample-device-plugin:1.8.0
    env: [{name: PLUGIN_SOCK_DIR, value: /var/lib/kubelet/device-plugins}, {name: CDI_ENABLED, value: "1"}]
    securityContext: {privileged: true}
    volumeMounts:
    - {name: plugins, mountPath: /var/lib/kubelet/device-plugins}
    - {name: tmp, mountPath: /tmp}
    - {name: cdi, mountPath: /var/run/cdi}
  volumes:
  - {name: plugins, hostPath: {path: /var/lib/kubelet/device-plugins}}
  - {name: tmp, hostPath: {path: /tmp}}
  - {name: cdi, hostPath: {path: /var/run/cdi, type: DirectoryOrCreate}}
`
	user := func(name string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {devices: pod}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sleep, "1000"]
    resources: {limits: {example.com/resource: 1}}
---
`, name)
	}
	capacity := func() string { return shared.get("node/"+node, `{.status.allocatable.example\.com/resource}`) }
	// device is what a container has of its device: the plugin's file, and the node
	// and the variable of its CDI file.
	device := func(pod string) string {
		return shared.kubectl("exec", pod, "--", "sh", "-c", "ls /tmp && echo $CDI_DEVICE").out
	}
	AfterAll(func() {
		shared.kubectl("delete", "pod", "-l", "devices=pod", "--wait=true").must()
		Eventually(capacity).Should(Equal("0"))
		skiff("exec", "--name", shared.name, node, "--", "sh", "-c", "rm -f /tmp/Dev-* /var/run/cdi/*").must()
	})

	It("are a node's resource, one for each container that asks", func() {
		shared.apply(plugin).must()
		Eventually(capacity).Should(Equal("2"))
		shared.apply(user("device-one") + user("device-two")).must()
		shared.kubectl("wait", "pod/device-one", "pod/device-two", "--for=condition=Ready", "--timeout=60s").must()
		Expect([]string{device("device-one"), device("device-two")}).To(ConsistOf("CDI-Dev-1\nDev-1\nCDI-Dev-1\n", "CDI-Dev-2\nDev-2\nCDI-Dev-2\n"))

		shared.apply(user("device-three")).must()
		Eventually(func() string {
			return shared.warnings("pod/device-three")
		}).Should(ContainSubstring("Insufficient example.com/resource"))
		shared.kubectl("delete", "pod", "device-one").must()
		shared.kubectl("wait", "pod/device-three", "--for=condition=Ready", "--timeout=60s").must()
	})

	It("stay with their containers when the node's process is killed", func() {
		before := device("device-two")
		Expect(find("skiff-machine node", node)).To(HaveLen(1))
		killAll("skiff-machine node", node)
		// Until the kubelet is back, exec fails.
		Eventually(device).WithArguments("device-two").WithTimeout(time.Minute).Should(Equal(before))
		// Once the plugin has seen the kubelet, too.
		shared.kubectl("delete", "pod", "device-three").must()
		shared.apply(user("device-four")).must()
		shared.kubectl("wait", "pod/device-four", "--for=condition=Ready", "--timeout=60s").must()
		Expect(device("device-four")).NotTo(Equal(before))
	})
})
