package e2e

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/test/etcdtest"
)

// etcdAddress is given to the host's loopback device: an address of the host
// that machines reach and that never leaves it.
var etcdAddress = net.IPv4(192, 0, 2, 77)

// existingEtcd is three members on the host, outside of every cluster, and
// the config that names them.
// Its machines are control planes.
func existingEtcd(controlPlanes int) (etcdtest.Members, string) {
	GinkgoHelper()
	lo, err := netlink.LinkByName("lo")
	Expect(err).NotTo(HaveOccurred())
	address := &netlink.Addr{IPNet: netlink.NewIPNet(etcdAddress)}
	Expect(netlink.AddrAdd(lo, address)).To(Succeed())
	DeferCleanup(func() { Expect(netlink.AddrDel(lo, address)).To(Succeed()) })
	authority, err := etcdtest.NewAuthority(GinkgoT().TempDir(), etcdAddress)
	Expect(err).NotTo(HaveOccurred())
	members, err := etcdtest.Start(GinkgoT().TempDir(), authority)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(members.Stop)
	cert, key, err := authority.Pair("skiff")
	Expect(err).NotTo(HaveOccurred())
	config, err := json.Marshal(map[string]any{
		"kind": "Cluster", "apiVersion": "skiff.cluster/v1alpha1", "etcdServers": members.URLs(),
		"nodes":   slices.Repeat([]any{map[string]string{"role": "control-plane"}}, controlPlanes),
		"etcdTLS": map[string]string{"caFile": authority.CA(), "certFile": cert, "keyFile": key},
	})
	Expect(err).NotTo(HaveOccurred())
	return members, string(config)
}

// keys counts what the members hold of a cluster.
func keys(members etcdtest.Members) int64 {
	GinkgoHelper()
	for _, m := range members {
		select {
		case <-m.StoppingNotify():
			continue
		default:
		}
		response, err := v3client.New(m.EtcdServer).Get(context.Background(), "/registry/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		Expect(err).NotTo(HaveOccurred())
		return response.Count
	}
	return 0
}

var _ = Describe("an existing etcd", func() {
	It("holds a cluster's state through the death of a member, of the control plane and of the cluster", func() {
		members, config := existingEtcd(1)
		c, r := create("e2etcd", config)
		DeferCleanup(func() { c.delete() })
		r.must()
		own, err := os.ReadDir("/var/lib/skiff/clusters/e2etcd/machines/e2etcd-control-plane/var/lib/etcd")
		Expect(err).NotTo(HaveOccurred())
		Expect(own).To(BeEmpty(), "no member of the cluster's own")
		Expect(keys(members)).To(BeNumerically(">", 100))

		c.kubectl("create", "configmap", "before", "--from-literal=k=v").must()
		c.kubectl("create", "secret", "generic", "before", "--from-literal=k=v").must()
		c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/pause:3.10.2}]
`).must()
		c.kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=30s").must()
		container := c.get("pod/p", "{.status.containerStatuses[0].containerID}")

		members.StopLeader()
		Eventually(func() int { return c.kubectl("create", "configmap", "two-members").code }).WithTimeout(time.Minute).Should(BeZero())

		pids := c.find("skiff-machine control-plane", "e2etcd-control-plane")
		Expect(pids).To(HaveLen(1))
		Expect(syscall.Kill(pids[0], syscall.SIGKILL)).To(Succeed())
		Eventually(func() string { return c.get("secret/before", "{.data.k}") }).WithTimeout(time.Minute).Should(Equal("dg=="))
		Expect(c.get("configmap/before", "{.data.k}")).To(Equal("v"))
		Expect(c.get("pod/p", "{.status.containerStatuses[0].containerID}")).To(Equal(container))
		c.kubectl("delete", "pod", "p", "--timeout=30s").must()

		deleted := c.delete()
		deleted.must()
		Expect(deleted.errOut).To(ContainSubstring("Its data stays in etcd at " + members.URLs()[0]))
		Expect(keys(members)).To(BeNumerically(">", 100))
	})

	It("is named when nobody answers there, and nothing is left of the create", func() {
		members, config := existingEtcd(1)
		members.Stop()
		_, r := create("e2etcdno", config)
		Expect(r.code).NotTo(BeZero())
		Expect(r.errOut).To(SatisfyAll(ContainSubstring("etcd "+members.URLs()[0]), ContainSubstring("does not answer: "), ContainSubstring("Mend: "), ContainSubstring("etcdServers")))
		Expect("/var/lib/skiff/clusters/e2etcdno").NotTo(BeADirectory())
	})

	It("holds the state of several control planes, of which one may die, and a member, too", func() {
		members, config := existingEtcd(3)
		c, r := create("e2etcd3", config)
		DeferCleanup(func() { c.delete() })
		r.must()
		Expect(c.serving()).To(Equal(3))
		c.kubectl("create", "secret", "generic", "before", "--from-literal=k=v").must()
		c.schedules("before")

		c.losesAControlPlane()
		// Whoever answers can read what another has encrypted.
		for range 6 {
			Expect(c.get("secret/before", "{.data.k}")).To(Equal("dg=="))
		}
		members.StopLeader()
		c.writes("two-members")
		c.schedules("two-members")
		skiff("restart", "cluster", "--name", c.name, "--now").must()
		c.served()
		Expect(c.get("configmap/two-members", "{.metadata.name}")).To(Equal("two-members"))

		c.delete().must()
		Expect(keys(members)).To(BeNumerically(">", 100))
	})
})

var _ = Describe("create cluster -v", func() {
	It("reaches the programs in the machines", func() {
		debug := func(name string, flags ...string) []string {
			GinkgoHelper()
			c, r := create(name, "", flags...)
			defer func() { c.delete().must() }()
			r.must()
			var told []string
			for _, service := range []string{"control-plane", "node"} {
				// -v 2 of klog, and of slog.
				if contains(filepath.Join("/var/lib/skiff/clusters", name, "logs", name+"-control-plane", service+".log"), "level=DEBUG+2") {
					told = append(told, service)
				}
			}
			return told
		}
		Expect(debug("e2equiet")).To(BeEmpty())
		Expect(debug("e2eloud", "-v", "2")).To(ConsistOf("control-plane", "node"))
	})
})
