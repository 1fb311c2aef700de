package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// diskBytes are those of the file system that a node has for itself.
const diskBytes = 160 << 20

// ownDisk is a cluster with a node whose Pods are on a disk of its own.
func ownDisk(disk string) string {
	return fmt.Sprintf(`
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
nodes:
- role: control-plane
- role: worker
  extraMounts:
  - {hostPath: %[1]s/kubelet, containerPath: /var/lib/kubelet}
  - {hostPath: %[1]s/containerd, containerPath: /var/lib/containerd}
- role: worker
`, disk)
}

var _ = Describe("a node whose disk is full", Ordered, func() {
	const node, other = "full-worker", "full-worker2"
	var (
		c          cluster
		disk       string
		containers map[string]string
	)
	pod := func(name, node, container string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers: [{name: c, %s}]
---
`, name, node, container)
	}
	const (
		serve = "image: registry.k8s.io/e2e-test-images/agnhost:2.66.1, args: [netexec], resources: {requests: {ephemeral-storage: 1Mi}}"
		fill  = `image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2, command: [sh, -c, "dd if=/dev/zero of=/fill bs=1M; sleep 1000"]`
		pause = "image: registry.k8s.io/pause:3.10.2"
	)
	container := func(name string) string {
		return c.get("pod/"+name, "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
	}
	pressure := func(node string) string {
		return c.get("node/"+node, `{range .status.conditions[?(@.type=="DiskPressure")]}{.status} {.reason}{end} {.spec.taints[*].key}`)
	}
	free := func() uint64 {
		GinkgoHelper()
		var st unix.Statfs_t
		Expect(unix.Statfs(disk, &st)).To(Succeed())
		return st.Bfree * uint64(st.Bsize)
	}
	const (
		under = "True KubeletHasDiskPressure node.kubernetes.io/disk-pressure"
		fine  = "False KubeletHasNoDiskPressure "
	)
	// fillDisk ends when who took all of it is evicted.
	fillDisk := func(name string) {
		GinkgoHelper()
		c.apply(pod(name, node, fill)).must()
		Eventually(func() string { return c.get("pod/"+name, "{.status.phase} {.status.reason}") }).WithTimeout(90 * time.Second).Should(Equal("Failed Evicted"))
		const why = `The node was low on resource: ephemeral-storage\. Threshold quantity: \S+, available: 0\. ` +
			`Container c was using \d+Ki, request is 0, has larger consumption of ephemeral-storage\. `
		Expect(c.get("pod/"+name, "{.status.message}")).To(MatchRegexp(why))
		Expect(c.warnings("pod/" + name)).To(MatchRegexp(`Evicted .*` + strings.TrimSpace(why)))
		Expect(pressure(node)).To(Equal(under))
	}
	othersLive := func() {
		GinkgoHelper()
		for name, was := range containers {
			Expect(container(name)).To(Equal(was), name)
			Expect(fetch("http://" + c.get("pod/"+name, "{.status.podIP}") + ":8080/hostname")).To(Equal(name))
		}
		Expect(pressure(other)).To(Equal(fine))
		Expect(c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True True True"))
	}
	takesPods := func(name string) {
		GinkgoHelper()
		c.apply(pod(name, node, fill[:strings.Index(fill, ", command")]+", command: [sleep, '1000']")).must()
		c.kubectl("wait", "pod/"+name, "--for=condition=Ready", "--timeout=60s").must()
	}

	BeforeAll(func() {
		disk = GinkgoT().TempDir()
		Expect(unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", diskBytes))).To(Succeed())
		DeferCleanup(func() { Expect(unix.Unmount(disk, 0)).To(Succeed()) })
		for _, dir := range []string{"kubelet", "containerd"} {
			Expect(unix.Mkdir(filepath.Join(disk, dir), 0o755)).To(Succeed())
		}
		var r result
		c, r = create("full", ownDisk(disk))
		DeferCleanup(c.delete)
		r.must()
		c.loadImages()
		c.apply(pod("content", node, serve) + pod("elsewhere", other, serve)).must()
		c.kubectl("wait", "pod/content", "pod/elsewhere", "--for=condition=Ready", "--timeout=60s").must()
		containers = map[string]string{"content": container("content"), "elsewhere": container("elsewhere")}
		Expect(pressure(node)).To(Equal(fine))
		Expect(c.get("node/"+node, "{.status.capacity.ephemeral-storage}")).To(Equal(fmt.Sprint(diskBytes)))
	})

	It("evicts the Pod that took it, to the last byte, says why, and leaves the others alone", func() {
		fillDisk("filler")
		Eventually(free).Should(BeNumerically(">", diskBytes*8/10))
		othersLive()
		// Nobody comes in meanwhile.
		c.apply(pod("late", node, pause)).must()
		Eventually(func() string { return c.get("pod/late", "{.status.phase} {.status.reason} {.status.message}") }).
			Should(MatchRegexp(`^Failed Evicted .*The node had condition: \[DiskPressure\]`))
	})

	It("takes Pods again when its kubelet starts anew", func() {
		for _, pid := range c.find("skiff-machine node", node) {
			Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		}
		Eventually(func() string { return pressure(node) }).Should(Equal(fine))
		takesPods("again")
		othersLive()
	})

	// Upstream's kubelet waits five minutes before it takes the condition back.
	It("takes Pods again by itself", Label("soak"), func() {
		fillDisk("another-filler")
		othersLive()
		Eventually(func() string { return pressure(node) }).WithTimeout(8 * time.Minute).WithPolling(time.Second).Should(Equal(fine))
		takesPods("and-again")
		othersLive()
	})
})
