package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/apis/storage/pagesum/pagesumtest"
	"github.com/skiff-k8s/skiff/test/reboot"
)

const replicatedConfig = `
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
- role: control-plane
- role: control-plane
- role: worker
`

// controlPlane is a control-plane machine as `skiff get nodes` shows it.
type controlPlane struct {
	Name, Role, IP, APIServer string
	PID                       int
}

func (c cluster) controlPlanes() []controlPlane {
	GinkgoHelper()
	var all []controlPlane
	Expect(json.Unmarshal([]byte(skiff("get", "nodes", "--name", c.name, "-o", "json").must()), &all)).To(Succeed())
	return slices.DeleteFunc(all, func(p controlPlane) bool { return p.Role != "control-plane" })
}

func (c cluster) controlPlane(name string) controlPlane {
	GinkgoHelper()
	all := c.controlPlanes()
	at := slices.IndexFunc(all, func(p controlPlane) bool { return p.Name == name })
	Expect(at).To(BeNumerically(">=", 0), name)
	return all[at]
}

// serving is how many API servers say that they serve.
func (c cluster) serving() int {
	n := 0
	for _, p := range c.controlPlanes() {
		if p.APIServer == "serving" {
			n++
		}
	}
	return n
}

// holder is the control plane that has a lease in kube-system.
func (c cluster) holder(lease string) string {
	name, _, _ := strings.Cut(c.get("lease/"+lease, "{.spec.holderIdentity}", "-n", "kube-system"), "_")
	return name
}

// writes makes a ConfigMap and returns after how long it was taken.
func (c cluster) writes(name string) time.Duration {
	GinkgoHelper()
	begin := time.Now()
	Eventually(func() string {
		r := c.kubectl("create", "configmap", name, "--request-timeout=5s")
		return r.out + r.errOut
	}).Should(Or(ContainSubstring("created"), ContainSubstring("already exists")))
	return time.Since(begin)
}

// schedules makes a Pod that ends at once and returns when it has a node.
func (c cluster) schedules(name string) {
	GinkgoHelper()
	c.apply(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {containers: [{name: c, image: "registry.k8s.io/pause:3.10.2"}]}}`, name)).must()
	Eventually(func() string { return c.get("pod/"+name, "{.spec.nodeName}") }).WithTimeout(20 * time.Second).ShouldNot(BeEmpty())
}

// losesAControlPlane kills the one that schedules: the others go on, and it
// comes back.
func (c cluster) losesAControlPlane() {
	GinkgoHelper()
	dead := c.holder("kube-scheduler")
	skiff("kill", "node", dead, "--name", c.name).must()
	c.writes("after-kill")
	c.schedules("after-kill")
	Expect(c.holder("kube-scheduler")).NotTo(Equal(dead))
	c.served()
}

// served waits until everybody serves again.
func (c cluster) served() {
	GinkgoHelper()
	Eventually(c.serving).Should(Equal(3))
}

// whole waits until the Services and nodes know of everybody, too, which may
// take upstream's ten seconds after an absence.
func (c cluster) whole() {
	GinkgoHelper()
	c.served()
	Eventually(func() int {
		return len(strings.Fields(c.get("endpointslice/kubernetes", "{.endpoints[*].addresses[0]}")))
	}).Should(Equal(3))
	Eventually(func() string {
		return c.get("endpointslices", "{.items[*].metadata.name}", "-n", "kube-system", "-l", "kubernetes.io/service-name=kube-dns")
	}).Should(And(ContainSubstring("control-plane "), ContainSubstring("control-plane2"), ContainSubstring("control-plane3")))
	c.kubectl("wait", "nodes", "--all", "--for=condition=Ready", "--timeout=30s").must()
}

// freeze stops every process of a machine where it is, or lets it go on.
func (c cluster) freeze(machine string, frozen bool) {
	GinkgoHelper()
	found, err := filepath.Glob("/sys/fs/cgroup/*/skiff/" + c.name + "/" + machine + "/cgroup.freeze")
	Expect(err).NotTo(HaveOccurred())
	if len(found) == 0 {
		found = []string{"/sys/fs/cgroup/skiff/" + c.name + "/" + machine + "/cgroup.freeze"}
	}
	Expect(os.WriteFile(found[0], []byte(map[bool]string{true: "1", false: "0"}[frozen]), 0o644)).To(Succeed())
}

// cut drops all packets from and to a machine at the switch; the returned
// function heals that.
func (c cluster) cut(machine string) (heal func()) {
	GinkgoHelper()
	ns, err := netns.GetFromPath("/run/skiff/" + c.name + "/netns/switch")
	Expect(err).NotTo(HaveOccurred())
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	Expect(err).NotTo(HaveOccurred())
	Expect(ns.Close()).To(Succeed())
	host := &net.IPNet{IP: net.ParseIP(c.controlPlane(machine).IP), Mask: net.CIDRMask(32, 32)}
	from, to := netlink.NewRule(), netlink.NewRule()
	from.Src, to.Dst = host, host
	for _, rule := range []*netlink.Rule{from, to} {
		rule.Priority, rule.Type, rule.Family = 10, unix.RTN_BLACKHOLE, unix.AF_INET
		Expect(h.RuleAdd(rule)).To(Succeed())
	}
	return func() {
		GinkgoHelper()
		Expect(h.RuleDel(from)).To(Succeed())
		Expect(h.RuleDel(to)).To(Succeed())
		h.Close()
	}
}

var _ = Describe("several control planes", Ordered, ContinueOnFailure, Label("replicas"), func() {
	var (
		c    cluster
		bare []string
	)
	BeforeAll(func() {
		var err error
		bare, err = inventory()
		Expect(err).NotTo(HaveOccurred())
		var r result
		c, r = create("ha", replicatedConfig)
		DeferCleanup(c.delete)
		DeferCleanup(func() { skiff("snapshot", "delete", "e2e-ha-cut"); skiff("snapshot", "delete", "e2e-ha-killed") })
		r.must()
		AddReportEntry("create", r.took.String())
	})

	It("all serve, and one schedules and controls", func() {
		c.whole()
		Expect(c.holder("kube-scheduler")).To(HavePrefix("ha-control-plane"))
		Expect(c.holder("kube-controller-manager")).To(HavePrefix("ha-control-plane"))
		Expect(skiff("get", "clusters", "-o", "wide").must()).To(MatchRegexp(`(?m)^ha +running +4 +3/3 `))
		Expect(c.get("nodes", "{.items[*].metadata.name}", "-l", "node-role.kubernetes.io/control-plane")).
			To(Equal("ha-control-plane ha-control-plane2 ha-control-plane3"))
		// Somebody's kubeconfig in there leads to whoever lives.
		skiff("exec", "ha-control-plane2", "--name", c.name, "--", "test", "-s", "/etc/kubernetes/admin.conf").must()
	})

	It("goes on after a pause as before", func() {
		leases := func() string { return c.holder("kube-scheduler") + " " + c.holder("kube-controller-manager") }
		before := leases()
		seen, err := os.Create(filepath.Join(GinkgoT().TempDir(), "seen"))
		Expect(err).NotTo(HaveOccurred())
		defer seen.Close()
		// As every client with a watch, it begins again when a server ends its
		// watches, which one does that saw no leader for a moment.
		watching, end := context.WithCancel(context.Background())
		var watch sync.WaitGroup
		defer func() { end(); watch.Wait() }()
		watch.Go(func() {
			for watching.Err() == nil {
				kubectl := exec.CommandContext(watching, filepath.Join(root, "_output/bin/kubectl"), "--kubeconfig", c.kubeconfig, "get", "configmaps", "--watch", "-o", "name")
				kubectl.Stdout = seen
				_ = kubectl.Run()
			}
		})
		sees := func() string { raw, _ := os.ReadFile(seen.Name()); return string(raw) }
		Eventually(sees).Should(ContainSubstring("configmap/kube-root-ca.crt"))

		skiff("pause", "cluster", "--name", c.name).must()
		time.Sleep(9 * time.Second) // longer than leases
		skiff("unpause", "cluster", "--name", c.name).must()
		AddReportEntry("write", c.writes("after-pause").String())
		c.schedules("after-pause")
		Eventually(sees).Should(ContainSubstring("configmap/after-pause"))
		Expect(leases()).To(Equal(before))
		Expect(strings.Fields(c.get("endpointslice/kubernetes", "{.endpoints[*].addresses[0]}"))).To(HaveLen(3), "nobody takes another for dead")

		skiff("pause", "cluster", "--name", c.name).must()
		for _, verb := range []string{"kill node " + strings.Fields(before)[0], "start cluster"} {
			Expect(skiff(append(strings.Fields(verb), "--name", c.name)...).errOut).To(ContainSubstring("is paused"), verb)
		}
		skiff("unpause", "cluster", "--name", c.name).must()
		c.served()
	})

	It("the death of the one that does is hardly noticed", func() {
		dead := c.holder("kube-scheduler")
		Expect(unix.Kill(c.controlPlane(dead).PID, unix.SIGKILL)).To(Succeed())
		begin := time.Now()
		AddReportEntry("next write", c.writes("after-kill").String())
		c.schedules("after-kill")
		AddReportEntry("next pod scheduled", time.Since(begin).String())
		Expect(time.Since(begin)).To(BeNumerically("<", 8*time.Second), "a lease that times out takes longer")
		Expect(c.holder("kube-scheduler")).NotTo(Equal(dead))
		c.served()
	})

	It("one that stands still costs its clients a retried request", func() {
		frozen := c.holder("kube-scheduler")
		c.freeze(frozen, true)
		DeferCleanup(func() { c.freeze(frozen, false) })
		for i := range 3 {
			AddReportEntry("write", c.writes(fmt.Sprintf("frozen-%d", i)).String())
		}
		Eventually(func() string { return c.get("endpointslice/kubernetes", "{.endpoints[*].addresses[0]}") }).
			ShouldNot(ContainSubstring(c.controlPlane(frozen).IP))
		Expect(skiff("get", "clusters", "-o", "wide").must()).To(MatchRegexp(`(?m)^ha +degraded +4 +2/3 `))
		// The worker's kubelet follows.
		c.schedules("frozen")
		Eventually(func() string { return c.get("pod/frozen", "{.status.phase}") }).Should(Equal("Running"))
		c.freeze(frozen, false)
		c.served()
	})

	It("one that is cut off sends its clients to the others", func() {
		lone := c.holder("kube-scheduler")
		heal := c.cut(lone)
		for i := range 3 {
			AddReportEntry("write", c.writes(fmt.Sprintf("cut-%d", i)).String())
		}
		c.schedules("cut")
		Eventually(func() string { return c.get("pod/cut", "{.status.phase}") }).Should(Equal("Running"))
		// Whoever is asked: the one that is cut off has not all of it.
		skiff("snapshot", "create", "e2e-ha-cut", "--name", c.name).must()
		heal()
		c.served()
	})

	It("without a majority nobody writes, and one more is enough", func() {
		all := c.controlPlanes()
		c.freeze(all[0].Name, true)
		c.freeze(all[1].Name, true)
		DeferCleanup(func() { c.freeze(all[0].Name, false); c.freeze(all[1].Name, false) })
		time.Sleep(time.Second) // what was on its way is through
		Expect(c.kubectl("create", "configmap", "minority", "--request-timeout=4s").code).NotTo(BeZero())
		c.freeze(all[0].Name, false)
		AddReportEntry("write", c.writes("majority").String())
		c.freeze(all[1].Name, false)
		c.served()
	})

	It("one that lost its directory is made anew and joins as a learner", func() {
		skiff("stop", "cluster", "--name", c.name).must()
		Expect(os.RemoveAll("/var/lib/skiff/clusters/ha/machines/ha-control-plane2")).To(Succeed())
		r := skiff("start", "cluster", "--name", c.name)
		r.must()
		AddReportEntry("start without a member's data", r.took.String())
		c.served()
		Expect(c.get("configmap/after-kill", "{.metadata.name}")).To(Equal("after-kill"))
		log, err := os.ReadFile("/var/lib/skiff/clusters/ha/logs/ha-control-plane2/control-plane.log")
		Expect(err).NotTo(HaveOccurred())
		Expect(string(log)).To(And(ContainSubstring("etcd member joins as a learner"), ContainSubstring("etcd member votes")))
		// It counts: with it, the others may lose one.
		c.freeze("ha-control-plane3", true)
		DeferCleanup(func() { c.freeze("ha-control-plane3", false) })
		c.writes("with-the-new-one")
		c.freeze("ha-control-plane3", false)
		c.served()
	})

	It("survives a reboot of the host, and a bit that flips in a member's database then", func() {
		c.writes("last")
		Expect(reboot.Host(c.name, c.ranges())).To(Succeed())
		skiff("snapshot", "create", "e2e-ha-killed", "--name", c.name).must()
		dir := "/var/lib/skiff/clusters/ha/machines/ha-control-plane3/var/lib/etcd/"
		at, err := pagesumtest.Find(dir+"member/snap/db", "after-kill")
		Expect(err).NotTo(HaveOccurred())
		Expect(pagesumtest.Flip(dir+"member/snap/db", at)).To(Succeed())
		r := skiff("start", "cluster", "--name", c.name)
		r.must()
		AddReportEntry("start after reboot", r.took.String())
		c.whole()
		Expect(c.get("configmap/majority", "{.metadata.name}")).To(Equal("majority"))
		Expect(c.get("configmap/after-kill", "{.metadata.name}")).To(Equal("after-kill"))
		for _, args := range [][]string{{"get", "clusters", "-o", "wide"}, {"get", "nodes", "-o", "wide", "--name", c.name}} {
			Expect(skiff(args...).errOut).To(And(
				ContainSubstring("etcd's data is damaged: "+dir+"member/snap/db: page "),
				ContainSubstring("It was made anew from the other control planes"), ContainSubstring(dir+"damaged")))
		}
		Expect(skiff("get", "clusters", "-o", "wide").must()).To(MatchRegexp(`(?m)^ha +running +4 +3/3 `))
	})

	It("is restored of snapshots, in its place and beside it", func() {
		r := skiff("snapshot", "restore", "e2e-ha-cut", "--now", "--kubeconfig", c.kubeconfig)
		r.must()
		AddReportEntry("restore", r.took.String())
		Expect(c.get("configmap/cut-2", "{.metadata.name}")).To(Equal("cut-2"), "what was acknowledged while one was cut off")
		Expect(c.get("configmap/majority", "{.metadata.name}")).To(BeEmpty())
		c.served()

		file := filepath.Join(GinkgoT().TempDir(), "killed.tar.gz")
		skiff("snapshot", "export", "e2e-ha-killed", file).must()
		skiff("snapshot", "delete", "e2e-ha-killed").must()
		skiff("snapshot", "import", file).must()
		second := cluster{name: "ha2", kubeconfig: filepath.Join(os.TempDir(), "skiff-e2e-ha2.kubeconfig")}
		DeferCleanup(second.delete)
		r = skiff("snapshot", "restore", "e2e-ha-killed", "--name", second.name, "--kubeconfig", second.kubeconfig)
		r.must()
		AddReportEntry("restore beside", r.took.String())
		Expect(second.get("configmap/last", "{.metadata.name}")).To(Equal("last"), "what was acknowledged before all were killed")
		Expect(second.get("nodes", "{.items[*].metadata.name}")).To(Equal("ha2-control-plane ha2-control-plane2 ha2-control-plane3 ha2-worker"))
		second.served()
		Expect(unix.Kill(second.controlPlane(second.holder("kube-scheduler")).PID, unix.SIGKILL)).To(Succeed())
		second.writes("after-kill")
		second.delete().must()
	})

	It("goes without a trace", func() {
		c.delete().must()
		skiff("snapshot", "delete", "e2e-ha-cut").must()
		skiff("snapshot", "delete", "e2e-ha-killed").must()
		expectNothingLeft(bare)
	})
})
