package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// Containerd's database is the node's own file, and its process does not start
// with one that is damaged: it ends again and again, which its machine does not.
var _ = Describe("a node whose process keeps ending", Ordered, func() {
	const node = "vanishing-worker"
	var (
		c              cluster
		file, log, was string
	)
	container := func() string {
		return c.get("pod/witness", "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
	}
	says := func(args ...string) func() string {
		return func() string {
			r := skiff(args...)
			return r.must() + r.errOut
		}
	}
	BeforeAll(func() {
		var r result
		c, r = create("vanishing", "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes:\n- role: control-plane\n- role: worker\n")
		DeferCleanup(c.delete)
		r.must()
		dir := filepath.Join("/var/lib/skiff/clusters", c.name)
		file = filepath.Join(dir, "machines", node, "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db")
		log = filepath.Join(dir, "logs", node, "node.log")
		c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: witness}
spec:
  nodeName: vanishing-worker
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/pause:3.10.2}]
`).must()
		c.kubectl("wait", "pod/witness", "--for=condition=Ready", "--timeout=60s").must()
		was = container()
	})
	kill := func() {
		for _, pid := range c.find("skiff-machine node", node) {
			Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		}
	}

	It("is none when it is killed once", func() {
		kill()
		Eventually(func() []int { return c.find("skiff-machine node", node) }).Should(HaveLen(1))
		Consistently(says("get", "nodes", "--name", c.name, "-o", "wide")).WithTimeout(time.Second).
			Should(And(MatchRegexp(`(?m)^vanishing-worker +vanishing +worker +running `), Not(ContainSubstring("has ended"))))
	})

	It("is named with the count, the reason and the log", func() {
		Expect(os.Rename(file, file+".whole")).To(Succeed())
		Expect(os.WriteFile(file, []byte("not a database"), 0o600)).To(Succeed())
		kill()
		why := `Node "vanishing-worker": its process node has ended [0-9]+ times since [-0-9: ]+, the last time with exit 1: Error: skiff-machine node: start containerd: of /var/lib/containerd: load required plugin io\.containerd\.metadata\.v1\.bolt: .*\n  Log: ` + log
		Eventually(says("get", "nodes", "--name", c.name, "-o", "wide")).Should(And(
			MatchRegexp(`(?m)^vanishing-worker +vanishing +worker +crash loop \([0-9]+\) `),
			MatchRegexp(`(?m)^vanishing-control-plane +vanishing +control-plane +running `), MatchRegexp(why)))
		Expect(says("get", "clusters", "-o", "wide")()).To(And(MatchRegexp(`(?m)^vanishing +degraded `), MatchRegexp(why)))
		Expect(skiff("start", "cluster", "--name", c.name, "--wait", "1s").errOut).To(MatchRegexp(why))

		var nodes []struct {
			Name       string
			CrashLoops []struct {
				Service, Last, Reason, Log string
				Ended                      int
				Since                      time.Time
			}
		}
		Expect(json.Unmarshal([]byte(skiff("get", "nodes", "--name", c.name, "-o", "json").must()), &nodes)).To(Succeed())
		Expect(nodes).To(HaveLen(2))
		for _, n := range nodes {
			if n.Name != node {
				Expect(n.CrashLoops).To(BeEmpty(), n.Name)
				continue
			}
			Expect(n.CrashLoops).To(HaveLen(1))
			loop := n.CrashLoops[0]
			Expect([]string{loop.Service, loop.Last, loop.Log}).To(Equal([]string{"node", "exit 1", log}))
			Expect(loop.Ended).To(BeNumerically(">=", 3))
			Expect(loop.Reason).To(ContainSubstring("io.containerd.metadata.v1.bolt"))
			Expect(loop.Since).To(BeTemporally("~", time.Now(), 5*time.Minute))
		}
		Expect(skiff("get", "nodes", "--name", c.name).must()).To(ContainSubstring(node))
	})

	It("is none any more when the process runs on, with the containers that it had", func() {
		Expect(os.Rename(file+".whole", file)).To(Succeed())
		Eventually(says("get", "nodes", "--name", c.name, "-o", "wide")).WithTimeout(time.Minute).
			Should(And(MatchRegexp(`(?m)^vanishing-worker +vanishing +worker +running `), Not(ContainSubstring("has ended"))))
		Eventually(says("get", "clusters", "-o", "wide")).Should(MatchRegexp(`(?m)^vanishing +running `))
		Eventually(func() string { return c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`) }).WithTimeout(time.Minute).Should(Equal("True True"))
		Eventually(container).Should(Equal(was))
	})
})
