package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/skiff-k8s/skiff/test/processes"
	"github.com/skiff-k8s/skiff/test/reboot"
)

// victim is a process of the cluster that a spec kills.
type victim struct {
	// pattern is looked for in the command line, node in its machine.
	pattern, node string
	// podsSurvive says whether containers on the node must outlive it.
	podsSurvive bool
}

var _ = Describe("kill -9", Ordered, func() {
	const pod = `
apiVersion: v1
kind: Pod
metadata: {name: survivor}
spec:
  nodeName: e2e-worker
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/pause:3.10.2}]
`
	AfterEach(func() { shared.kubectl("delete", "pod", "survivor", "--ignore-not-found").must() })

	DescribeTable("of any one process: the cluster comes back by itself",
		func(v victim) {
			shared.kubectl("delete", "pod", "survivor", "--ignore-not-found").must()
			shared.apply(pod).must()
			shared.kubectl("wait", "pod/survivor", "--for=condition=Ready", "--timeout=30s").must()
			marker := fmt.Sprintf("marker-%d", time.Now().UnixNano())
			shared.kubectl("create", "configmap", marker).must()
			container := shared.get("pod/survivor", "{.status.containerStatuses[0].containerID}")

			killAll(v.pattern, v.node)
			Eventually(func() int { return shared.kubectl("get", "configmap", marker).code }).Should(BeZero(), "nothing acknowledged is lost")
			Eventually(func() string {
				return shared.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)
			}).WithTimeout(90 * time.Second).Should(Equal("True True True"))
			if v.podsSurvive {
				Consistently(func() string { return shared.get("pod/survivor", "{.status.containerStatuses[0].containerID}") }).
					WithTimeout(time.Second).WithPolling(200 * time.Millisecond).Should(Equal(container))
			}
			// The node still starts and stops pods.
			Eventually(func() string {
				shared.kubectl("delete", "pod", "survivor", "--ignore-not-found", "--wait=true", "--timeout=20s")
				shared.apply(pod)
				return shared.kubectl("wait", "pod/survivor", "--for=condition=Ready", "--timeout=20s").errOut
			}).WithTimeout(90 * time.Second).Should(BeEmpty())
			shared.kubectl("delete", "configmap", marker).must()
		},
		Entry("the supervisor", victim{pattern: "skiff supervise e2e", podsSurvive: true}),
		Entry("the control plane", victim{pattern: "skiff-machine control-plane", node: "e2e-control-plane", podsSurvive: true}),
		Entry("a node's containerd and kubelet", victim{pattern: "skiff-machine node", node: "e2e-worker", podsSurvive: true}),
		Entry("a node's shim", victim{pattern: "skiff-shim", node: "e2e-worker"}),
		Entry("a machine's init", victim{pattern: "skiff-init", node: "e2e-worker"}),
	)

	It("of a whole machine through `skiff kill node` brings the node back", func() {
		before := find("skiff-machine node", "e2e-worker2")
		Expect(before).NotTo(BeEmpty())
		skiff("kill", "node", "e2e-worker2", "--name", shared.name).must()
		Eventually(func() []int { return find("skiff-machine node", "e2e-worker2") }).ShouldNot(Or(BeEmpty(), ContainElements(before)))
		// Its status says Ready all the time, as a crashed node's does; that it
		// runs Pods again is what counts.
		Eventually(func() string {
			shared.apply(strings.ReplaceAll(pod, "e2e-worker", "e2e-worker2"))
			return shared.kubectl("wait", "pod/survivor", "--for=condition=Ready", "--timeout=10s").errOut
		}).WithTimeout(60 * time.Second).Should(BeEmpty())
	})
})

// find looks in the suite's own cluster.
func find(pattern, node string) []int {
	GinkgoHelper()
	return shared.find(pattern, node)
}

// find lists the processes of the cluster whose command line has pattern and,
// if node is given, that live in that machine.
func (c cluster) find(pattern, node string) (pids []int) {
	GinkgoHelper()
	all, err := processes.Of(c.name)
	Expect(err).NotTo(HaveOccurred())
	for _, p := range processes.WithoutForks(all) {
		if strings.Contains(p.Command, pattern) && (node == "" || p.Machine == node) {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// killAll kills the processes that find lists, and waits for those that come in
// their place.
func killAll(pattern, node string) {
	GinkgoHelper()
	pids := find(pattern, node)
	Expect(pids).NotTo(BeEmpty(), "no process "+pattern)
	for _, pid := range pids {
		Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
	}
	Eventually(func() []int { return find(pattern, node) }).ShouldNot(Or(BeEmpty(), ContainElements(pids)), "it is started again")
}

var _ = Describe("clusters side by side", func() {
	It("five clusters are Ready and answer, and leave nothing", func() {
		start, err := inventory()
		Expect(err).NotTo(HaveOccurred())
		var clusters []cluster
		for i := range 5 {
			c, r := create(fmt.Sprintf("side%d", i), "")
			DeferCleanup(c.delete)
			clusters = append(clusters, c)
			r.must()
		}
		var listed []string
		Expect(json.Unmarshal([]byte(jsonNames(skiff("get", "clusters", "-q").must())), &listed)).To(Succeed())
		for _, c := range clusters {
			Expect(listed).To(ContainElement(c.name))
			c.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=30s").must()
			address := c.get("service/kubernetes", "{.spec.clusterIP}")
			_, err := fetch("http://" + address + ":443")
			Expect(err).NotTo(HaveOccurred(), "the API server tells us to speak TLS: it is reached from the host")
		}
		for _, c := range clusters {
			c.delete().must()
		}
		expectNothingLeft(start)
	})

	It("ten nodes in one cluster are Ready", func() {
		config := "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes:\n- role: control-plane\n" + strings.Repeat("- role: worker\n", 9)
		c, r := create("ten", config, "--wait", "60s")
		DeferCleanup(c.delete)
		r.must()
		c.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=60s").must()
		Expect(strings.Fields(c.get("nodes", "{.items[*].metadata.name}"))).To(HaveLen(10))
	})
})

// jsonNames turns a line per name into a JSON array.
func jsonNames(lines string) string {
	data, err := json.Marshal(strings.Fields(lines))
	Expect(err).NotTo(HaveOccurred())
	return string(data)
}

var _ = Describe("leaks", func() {
	It("fifty clusters come and go without a trace", func() {
		start, err := inventory()
		Expect(err).NotTo(HaveOccurred())
		for range 50 {
			c, r := create("cycle", "")
			r.must()
			c.delete().must()
		}
		expectNothingLeft(start)
	})

	It("delete cleans up after every process was killed", func() {
		start, err := inventory()
		Expect(err).NotTo(HaveOccurred())
		c, r := create("dead", threeNodes)
		r.must()
		Expect(reboot.Kill(c.name)).To(Succeed())
		c.delete().must()
		expectNothingLeft(start)
	})

	It("an interrupted create rolls back", func() {
		start, err := inventory()
		Expect(err).NotTo(HaveOccurred())
		for _, after := range []time.Duration{5, 20, 60, 120, 250, 400} {
			interruptedCreate("cut", after*time.Millisecond)
		}
		expectNothingLeft(start)
		Expect(strings.Fields(skiff("get", "clusters", "-q").must())).NotTo(ContainElement("cut"))
	})
})
