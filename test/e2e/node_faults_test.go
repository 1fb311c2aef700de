package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// smallNode is a cluster whose workers are soon full.
const smallNode = `
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
nodes:
- role: control-plane
- role: worker
  resources: {cpu: "1", memory: 512Mi, pods: 8}
- role: worker
  resources: {pods: 1}
`

// breeder starts more processes than a tenth of what its node has for Pods
// leaves: 2560 here.
const breeder = `
apiVersion: v1
kind: Pod
metadata: {name: breeder}
spec:
  nodeName: small-worker2
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, "for i in $(seq 2400); do sleep 1000 & done; exec sleep 1000"]
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
---
apiVersion: v1
kind: Pod
metadata: {name: volume}
spec:
  nodeName: small-worker
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, "dd if=/dev/zero of=/data/file bs=1M count=4; sleep 1000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {sizeLimit: 1Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: layer}
spec:
  nodeName: small-worker
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, "dd if=/dev/zero of=/file bs=1M count=4; sleep 1000"]
    resources: {limits: {ephemeral-storage: 1Mi}}
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
		Expect(c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True True True"))
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
		// Upstream's kubelet measures volumes once a minute.
		for pod, why := range map[string]string{
			"volume": `Usage of EmptyDir volume "data" exceeds the limit "1Mi". `,
			"layer":  `Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. `,
		} {
			Eventually(func() string { return c.get("pod/"+pod, "{.status.phase} {.status.reason} {.status.message}") }).
				WithTimeout(2 * time.Minute).Should(Equal("Failed Evicted " + why))
			Expect(c.warnings("pod/" + pod)).To(ContainSubstring("Evicted"))
		}

		Expect(c.get("pod/content", "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")).To(Equal(was + " 0"))
		Expect(c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True True True"))
	})

	It("evicts who starts too many processes, and is under pressure for it", func() {
		c.apply(breeder).must()
		Eventually(func() string { return c.get("pod/breeder", "{.status.phase} {.status.reason} {.status.message}") }).
			WithTimeout(time.Minute).Should(HavePrefix("Failed Evicted The node was low on resource: pids. Threshold quantity: 256, available: "))
		Expect(c.get("node/small-worker2", `{.status.conditions[?(@.type=="PIDPressure")].status}`)).To(Equal("True"))
		Expect(c.get("node/small-worker", `{.status.conditions[?(@.type=="PIDPressure")].status}`)).To(Equal("False"))
		Expect(c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True True True"))
	})
})

var _ = Describe("a node of the default size", func() {
	It("takes 110 of 200 Pods, says why the others wait, and stays as it is", func() {
		const node = "e2e-worker2"
		ready := func() string { return shared.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`) }
		phases := func(selector ...string) map[string]int {
			count := map[string]int{}
			args := append([]string{"get", "pods", "-A", "-o", "jsonpath={.items[*].status.phase}"}, selector...)
			for _, phase := range strings.Fields(shared.kubectl(args...).must()) {
				count[phase]++
			}
			return count
		}
		before := phases("--field-selector", "spec.nodeName="+node)
		shared.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: crowd}
spec:
  replicas: 200
  selector: {matchLabels: {app: crowd}}
  template:
    metadata: {labels: {app: crowd}}
    spec:
      nodeSelector: {kubernetes.io/hostname: ` + node + `}
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: registry.k8s.io/pause:3.10.2}]
`).must()
		DeferCleanup(func() {
			shared.kubectl("delete", "deployment/crowd", "--ignore-not-found").must()
			Eventually(func() map[string]int { return phases("-l", "app=crowd") }).WithTimeout(2 * time.Minute).Should(BeEmpty())
		})
		room := 110 - before["Running"] - before["Pending"]
		Eventually(func() map[string]int { return phases("-l", "app=crowd") }).WithTimeout(3 * time.Minute).WithPolling(time.Second).
			Should(Equal(map[string]int{"Running": room, "Pending": 200 - room}))
		Eventually(func() string {
			return shared.kubectl("get", "events", "--field-selector", "reason=FailedScheduling").out
		}).
			Should(ContainSubstring("1 Too many pods"))
		Expect(ready()).To(Equal("True True True"))
	})
})

// The kubelet's checkpoints are its own files. Upstream's does not start with
// one that is damaged, until somebody deletes it.
var _ = Describe("a kubelet's checkpoint that is damaged", Ordered, func() {
	const node = "e2e-worker"
	const witness = `
apiVersion: v1
kind: Pod
metadata: {name: witness}
spec:
  nodeName: e2e-worker
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/e2e-test-images/agnhost:2.66.1, args: [netexec]}]
`
	container := func() string {
		return shared.get("pod/witness", "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
	}
	healthy := func() int { return shared.kubectl("get", "--raw", "/api/v1/nodes/"+node+"/proxy/healthz").code }

	It("keeps the kubelet from starting and nothing else, is named with its mend, and is made anew", func() {
		shared.apply(witness).must()
		DeferCleanup(func() { shared.kubectl("delete", "pod", "witness", "--wait=true").must() })
		shared.kubectl("wait", "pod/witness", "--for=condition=Ready", "--timeout=30s").must()
		was, address := container(), shared.get("pod/witness", "{.status.podIP}")
		files, err := filepath.Glob(filepath.Join("/var/lib/skiff/clusters", shared.name, "machines", node, "var/lib/kubelet/*_state"))
		Expect(err).NotTo(HaveOccurred())
		Expect(files).To(HaveLen(5), "the checkpoints of a node with a Pod")

		for _, file := range files {
			By("half of " + file)
			info, err := os.Stat(file)
			Expect(err).NotTo(HaveOccurred())
			Expect(os.Truncate(file, info.Size()/2)).To(Succeed())
			for _, pid := range find("skiff-machine node", node) {
				Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
			}
			inside := "/var/lib/kubelet/" + filepath.Base(file)
			Eventually(func() string {
				r := skiff("get", "nodes", "--name", shared.name, "-o", "wide")
				return r.must() + r.errOut
			}).Should(And(
				MatchRegexp(`(?m)^e2e-worker +e2e +worker +kubelet does not start `), MatchRegexp(`(?m)^e2e-worker2 +e2e +worker +running `),
				ContainSubstring(`Node "e2e-worker": the kubelet does not start: could not restore state from checkpoint: `),
				ContainSubstring(inside), ContainSubstring("Mend: rm "+file)))
			Expect(skiff("get", "clusters", "-o", "wide").must()).To(MatchRegexp(`(?m)^e2e +degraded `))
			Eventually(func() string {
				return shared.warnings("node/" + node)
			}).Should(MatchRegexp(`KubeletSetupFailed .*delete .* checkpoint file "` + inside + `" before restarting Kubelet`))
			Expect(skiff("logs", node, "--name", shared.name).must()).To(ContainSubstring("kubelet does not start"))

			// The other half of its process runs, and so do containers.
			pids := find("skiff-machine node", node)
			Expect(pids).To(HaveLen(1))
			Consistently(func() []int { return find("skiff-machine node", node) }).WithTimeout(time.Second).Should(Equal(pids))
			Expect(healthy()).NotTo(BeZero())
			Expect(fetch("http://" + address + ":8080/hostname")).To(Equal("witness"))

			Expect(os.Remove(file)).To(Succeed())
			Eventually(healthy).Should(BeZero())
			Eventually(func() string {
				r := skiff("get", "nodes", "--name", shared.name, "-o", "wide")
				return r.must() + r.errOut
			}).Should(And(MatchRegexp(`(?m)^e2e-worker +e2e +worker +running `), Not(ContainSubstring("does not start"))))
			Eventually(func() int { return shared.kubectl("exec", "witness", "--", "true").code }).Should(BeZero())
			Eventually(file).Should(BeAnExistingFile())
		}
		Expect(container()).To(Equal(was))
		Expect(shared.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`)).To(Equal("True True True"))
	})
})
