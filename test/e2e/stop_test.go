package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/skiff-k8s/skiff/test/leftovers"
	"github.com/skiff-k8s/skiff/test/reboot"
)

// diary is a StatefulSet with a volume and a Service: each life of its pod
// writes into the volume when it begins, and when it is asked to end.
const diary = `
apiVersion: v1
kind: Service
metadata: {name: diary}
spec:
  selector: {app: diary}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: diary}
spec:
  serviceName: diary
  selector: {matchLabels: {app: diary}}
  template:
    metadata: {labels: {app: diary}}
    spec:
      containers:
      - name: c
        image: registry.k8s.io/e2e-test-images/agnhost:2.66.1
        command: [sh, -c]
        args: ["trap 'echo bye >> /data/diary; exit 0' TERM; echo up >> /data/diary; /agnhost netexec & wait"]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`

// looks is what must be the same after a start.
type looks struct {
	Kubeconfig, Nodes, Pod, Claim, Service string
	Info                                   any
}

func (c cluster) looks() looks {
	GinkgoHelper()
	raw, err := os.ReadFile(c.kubeconfig)
	Expect(err).NotTo(HaveOccurred())
	var infos []map[string]any
	Expect(json.Unmarshal([]byte(skiff("get", "clusters", "-o", "json").must()), &infos)).To(Succeed())
	at := slices.IndexFunc(infos, func(i map[string]any) bool { return i["name"] == c.name })
	Expect(at).To(BeNumerically(">=", 0))
	info := infos[at]
	// Of one life only.
	delete(info, "supervisorPID")
	for _, m := range info["machines"].([]any) {
		delete(m.(map[string]any), "pid")
		delete(m.(map[string]any), "started")
	}
	return looks{
		Kubeconfig: string(raw), Info: info,
		Nodes:   c.get("nodes", "{range .items[*]}{.metadata.name} {.metadata.uid} {.status.addresses} {.spec.podCIDR};{end}"),
		Pod:     c.get("pod/diary-0", "{.metadata.uid} {.spec.nodeName}"),
		Claim:   c.get("pvc/data-diary-0", "{.metadata.uid} {.spec.volumeName} {.status.phase}"),
		Service: c.get("service/diary", "{.spec.clusterIP}"),
	}
}

// reads is the diary in the volume, as the pod sees it.
func (c cluster) reads() func() string {
	return func() string {
		return strings.Join(strings.Fields(c.kubectl("exec", "diary-0", "--", "cat", "/data/diary").out), " ")
	}
}

// expectTheSame waits for the pod's next life and compares.
func (c cluster) expectTheSame(was looks, entries string) {
	GinkgoHelper()
	Eventually(c.reads()).Should(Equal(entries))
	c.kubectl("wait", "pod/diary-0", "--for=condition=Ready", "--timeout=30s").must()
	Eventually(func() error { _, err := fetch("http://" + was.Service + "/hostname"); return err }).Should(Succeed())
	Expect(c.looks()).To(Equal(was))
}

// expectOnlyTheDirectory compares the host with an earlier inventory.
func (c cluster) expectOnlyTheDirectory(before []string) {
	GinkgoHelper()
	dir := "file /var/lib/skiff/clusters/" + c.name
	Eventually(func() ([]string, error) {
		after, err := inventory()
		return slices.DeleteFunc(leftovers.Added(before, after), func(what string) bool {
			return what == dir || strings.HasPrefix(what, dir+"/")
		}), err
	}).WithTimeout(20 * time.Second).Should(BeEmpty())
}

var _ = Describe("stop and start", Ordered, func() {
	var (
		c    cluster
		was  looks
		bare []string
	)
	const config = `
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
nodes:
- role: control-plane
- role: worker
`
	BeforeAll(func() {
		var err error
		bare, err = inventory()
		Expect(err).NotTo(HaveOccurred())
		var r result
		c, r = create("stop", config)
		DeferCleanup(c.delete)
		r.must()
		c.apply(diary).must()
		c.kubectl("rollout", "status", "statefulset/diary", "--timeout=60s").must()
		was = c.looks()
		Expect(was.Claim).To(HaveSuffix("Bound"))
	})

	It("leaves nothing but the directory, and brings the same cluster back", func() {
		skiff("stop", "cluster", "--name", c.name).must()
		c.expectOnlyTheDirectory(bare)
		Expect(skiff("get", "clusters", "-o", "wide").must()).To(MatchRegexp(`(?m)^stop +stopped .*may lose the last writes`))
		Expect(skiff("get", "nodes", "--name", c.name, "-o", "wide").must()).To(MatchRegexp(`stop-worker +stop +worker +down `))
		Expect(skiff("exec", was.node(), "--name", c.name, "--", "true").errOut).To(ContainSubstring("is stopped"))
		skiff("stop", "cluster", "--name", c.name).must() // is fine

		r := skiff("start", "cluster", "--name", c.name)
		r.must()
		AddReportEntry("start after stop", r.took.String())
		c.expectTheSame(was, "up bye up")
		skiff("start", "cluster", "--name", c.name).must() // is fine
	})

	It("gives a stopped cluster's ranges and ports to nobody", func() {
		skiff("stop", "cluster", "--name", c.name, "--now").must()
		other, r := create("stop2", "")
		DeferCleanup(other.delete)
		r.must()
		for _, p := range other.ranges() {
			for _, own := range c.ranges() {
				Expect(p.Overlaps(own)).To(BeFalse(), "%s and %s", p, own)
			}
		}
		info := was.Info.(map[string]any)
		_, port, _ := strings.Cut(info["endpoint"].(string), ":")
		r = run("kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnetworking: {apiServerPort: "+port+"}\n",
			filepath.Join(root, "bin/skiff"), "create", "cluster", "--name", "stop3", "--config", "-")
		Expect(r.code).NotTo(BeZero())
		Expect(r.errOut).To(ContainSubstring(`networking.apiServerPort: port ` + port + ` is kept by cluster "stop"`))
		skiff("start", "cluster", "--name", c.name).must()
		c.expectTheSame(was, "up bye up up") // nobody asked the pod
		other.delete().must()
	})

	It("brings the same cluster back after a reboot of the host", func() {
		Expect(reboot.Host(c.name, c.ranges())).To(Succeed())
		c.expectOnlyTheDirectory(bare)
		Expect(skiff("get", "clusters", "-o", "wide").must()).To(MatchRegexp(`(?m)^stop +stopped `))
		r := skiff("start", "cluster", "--name", c.name)
		r.must()
		AddReportEntry("start after reboot", r.took.String())
		c.expectTheSame(was, "up bye up up up")
	})

	It("pauses and goes on", func() {
		skiff("pause", "cluster", "--name", c.name).must()
		Expect(skiff("get", "clusters", "-o", "wide").must()).To(MatchRegexp(`(?m)^stop +paused `))
		Expect(c.kubectl("get", "nodes", "--request-timeout=1s").code).NotTo(BeZero())
		_, err := fetch("http://" + was.Service + "/hostname")
		Expect(err).To(HaveOccurred(), "pods stand still too")
		Expect(skiff("exec", was.node(), "--name", c.name, "--", "true").errOut).To(ContainSubstring("is paused"))
		skiff("unpause", "cluster", "--name", c.name).must()
		c.expectTheSame(was, "up bye up up up")
	})

	It("completes a stop or a start that was killed, whatever comes next", func() {
		for i, after := range []time.Duration{5, 30, 80, 150, 300, 600} {
			for _, verb := range []string{"stop", "start"} {
				interrupt(after*time.Millisecond, verb, "cluster", "--name", c.name)
				next := []string{"stop", "start"}[i%2]
				skiff(next, "cluster", "--name", c.name).must()
				if next == "stop" {
					c.expectOnlyTheDirectory(bare)
				}
			}
		}
		skiff("restart", "cluster", "--name", c.name).must()
		c.kubectl("wait", "pod/diary-0", "--for=condition=Ready", "--timeout=30s").must()
		Eventually(func() error { _, err := fetch("http://" + was.Service + "/hostname"); return err }).Should(Succeed())
		Expect(c.looks()).To(Equal(was))
	})

	It("deletes a paused cluster without a trace", func() {
		skiff("pause", "cluster", "--name", c.name).must()
		c.delete().must()
		expectNothingLeft(bare)
	})
})

func (l looks) node() string { return strings.Fields(l.Pod)[1] }

// interrupt kills a command after a while, if it still runs.
func interrupt(after time.Duration, args ...string) {
	GinkgoHelper()
	cmd := exec.Command(filepath.Join(root, "bin/skiff"), args...)
	Expect(cmd.Start()).To(Succeed())
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_ = cmd.Wait() // killed, or faster
	fmt.Fprintf(GinkgoWriter, "%v after %v: %v\n", args, after, cmd.ProcessState)
}
