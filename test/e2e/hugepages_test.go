package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	hugePool     = "/sys/kernel/mm/hugepages/hugepages-2048kB"
	hugePageSize = 2 << 20
)

var _ = Describe("huge pages", func() {
	pool := func(file string) int {
		GinkgoHelper()
		data, err := os.ReadFile(filepath.Join(hugePool, file))
		Expect(err).NotTo(HaveOccurred())
		n, err := strconv.Atoi(strings.TrimSpace(string(data)))
		Expect(err).NotTo(HaveOccurred())
		return n
	}
	// reserve adds pages to the host's until the spec ends.
	reserve := func(more int) {
		GinkgoHelper()
		before := pool("nr_hugepages")
		set := func(n int) error {
			return os.WriteFile(filepath.Join(hugePool, "nr_hugepages"), []byte(strconv.Itoa(n)), 0)
		}
		DeferCleanup(func() {
			Expect(set(before)).To(Succeed())
			Expect(pool("nr_hugepages")).To(Equal(before))
		})
		Expect(set(before + more)).To(Succeed())
		Expect(pool("nr_hugepages")).To(Equal(before+more), "the host's memory has no room for more huge pages: free some, or reboot")
	}

	It("are the host's: a Pod uses them, as memory of emptyDir, up to its limit", func() {
		known, err := os.ReadFile("/proc/filesystems")
		Expect(err).NotTo(HaveOccurred())
		if _, err := os.Stat(hugePool); !strings.Contains(string(known), "\thugetlbfs\n") || err != nil {
			Skip("the kernel has no hugetlbfs, or no pages of 2 MiB")
		}
		// A node counts what is there when it starts.
		reserve(16)
		c, r := create("hugepages", "")
		DeferCleanup(func() { c.delete().must() })
		r.must()
		c.loadImages()
		node := "node/hugepages-control-plane"
		capacity := resource.MustParse(c.get(node, `{.status.capacity.hugepages-2Mi}`))
		Expect(capacity.Value()).To(BeEquivalentTo(pool("nr_hugepages") * hugePageSize))

		pod := func(name string, pages int) string {
			return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sleep, "1000"]
    resources: {limits: {memory: 64Mi, hugepages-2Mi: %d}}
    volumeMounts: [{name: any, mountPath: /any}, {name: sized, mountPath: /sized}]
  volumes:
  - {name: any, emptyDir: {medium: HugePages}}
  - {name: sized, emptyDir: {medium: HugePages-2Mi}}
---
`, name, pages*hugePageSize)
		}
		c.apply(pod("some", 4) + pod("too-many", pool("nr_hugepages")+1)).must()
		c.kubectl("wait", "pod/some", "--for=condition=Ready", "--timeout=60s").must()
		Eventually(func() string {
			return c.warnings("pod/too-many")
		}).Should(ContainSubstring("Insufficient hugepages-2Mi"))

		inPod := func(script string) result { return c.kubectl("exec", "some", "--", "sh", "-c", script) }
		Expect(inPod("mount").must()).To(And(
			ContainSubstring("on /any type hugetlbfs (rw,relatime,pagesize=2M)"),
			ContainSubstring("on /sized type hugetlbfs (rw,relatime,pagesize=2M)")))
		free := pool("free_hugepages")
		inPod("fallocate -l 4M /any/two && fallocate -l 2M /sized/one").must()
		Expect(pool("free_hugepages")).To(Equal(free - 3))
		more := inPod("fallocate -l 8M /any/more")
		if limitsHugePages() {
			Expect(more.code).NotTo(Equal(0))
			Expect(more.errOut).To(ContainSubstring("No space left on device"))
		} else {
			more.must()
		}
		c.kubectl("delete", "pod", "some", "--wait=true").must()
		Eventually(func() int { return pool("free_hugepages") }).Should(Equal(free))
	})
})

// limitsHugePages says whether the kubelet finds the controller of huge pages:
// where there are cgroup v1 hierarchies it has to be one of them.
func limitsHugePages() bool {
	GinkgoHelper()
	if have, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return slices.Contains(strings.Fields(string(have)), "hugetlb")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(string(mounts)) {
		if _, kind, ok := strings.Cut(line, " - cgroup "); ok && slices.Contains(strings.FieldsFunc(kind, func(r rune) bool {
			return strings.ContainsRune(" ,\n", r)
		}), "hugetlb") {
			return true
		}
	}
	return false
}
