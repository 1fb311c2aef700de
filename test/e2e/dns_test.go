package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// hostFiles plays the host's /etc: skiff writes there, and lookups see it.
type hostFiles string

// newHostFiles moves /etc for the commands of one spec.
func newHostFiles(resolvConf string) hostFiles {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	for name, content := range map[string]string{"resolv.conf": resolvConf, "nsswitch.conf": "hosts: files dns\n"} {
		Expect(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)).To(Succeed())
	}
	GinkgoT().Setenv("SKIFF_ETC_DIR", dir)
	return hostFiles(dir)
}

func (h hostFiles) resolvConf() string {
	data, err := os.ReadFile(filepath.Join(string(h), "resolv.conf"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// run runs a shell command with the files in the place of the host's, in
// mounts of its own.
func (h hostFiles) run(script string) result {
	return run("", "unshare", "--mount", "sh", "-c",
		`mount --bind "$0/resolv.conf" /etc/resolv.conf && mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf && `+script, string(h))
}

var _ = Describe("names of the cluster on the host", func() {
	// Without a newline at its end, and without a nameserver: not every host
	// that runs this forwards packets.
	const before = "# mine\nsearch example.com\noptions timeout:1"

	It("resolve when create returns, for as long as the cluster lives", func() {
		start, err := inventory()
		Expect(err).NotTo(HaveOccurred())
		etc := newHostFiles(before)
		c, r := create("names", "", "--host-dns")
		defer c.delete()
		r.must()
		api := etc.run("getent hosts kubernetes.default.svc.cluster.local")
		Expect(strings.Fields(api.must())).To(HaveExactElements(c.get("service/kubernetes", "{.spec.clusterIP}"), "kubernetes.default.svc.cluster.local"))

		c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: db-0, labels: {app: db}}
spec:
  hostname: db-0
  subdomain: db
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "registry.k8s.io/e2e-test-images/agnhost:2.66.1", args: [netexec]}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: db}, ports: [{port: 80, targetPort: 8080}]}
`).must()
		c.kubectl("wait", "pod/db-0", "--for=condition=Ready", "--timeout=30s").must()
		Eventually(func() string { return etc.run("getent hosts db-0.db.default.svc.cluster.local").out }).
			Should(HavePrefix(c.get("pod/db-0", "{.status.podIP}")))
		Eventually(func() string { return etc.run("curl -sS -m 5 http://web.default.svc.cluster.local/hostname").out }).Should(Equal("db-0"))
		outside := etc.run("getent hosts outside.example.org")
		Expect(outside.code).To(Equal(2), outside.errOut)
		Expect(outside.took).To(BeNumerically("<", time.Second), "a name that nobody has fails at once")

		By("refusing a second cluster by the name of the first")
		_, second := create("names2", "", "--host-dns")
		Expect(second.code).NotTo(BeZero())
		Expect(second.errOut).To(And(ContainSubstring(`cluster "names" has it already`), ContainSubstring("skiff delete cluster --name names")))

		By("a supervisor that starts again mends what somebody has taken away")
		Expect(os.WriteFile(filepath.Join(string(etc), "resolv.conf"), []byte(before), 0o644)).To(Succeed())
		for _, pid := range c.find("supervise names", "") {
			Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		}
		Eventually(etc.resolvConf).Should(And(HavePrefix("# skiff: begin"), HaveSuffix(before)))

		c.delete().must()
		Expect(etc.resolvConf()).To(Equal(before))
		expectNothingLeft(start)
	})

	It("are taken back after a kill -9 of create at any moment", func() {
		start, err := inventory()
		Expect(err).NotTo(HaveOccurred())
		etc := newHostFiles(before)
		c := cluster{name: "names", kubeconfig: filepath.Join(GinkgoT().TempDir(), "kubeconfig")}
		written := 0
		for after := 200 * time.Millisecond; after < 1400*time.Millisecond; after += 150 * time.Millisecond {
			cmd := exec.Command(filepath.Join(root, "bin/skiff"), "create", "cluster", "--name", c.name, "--kubeconfig", c.kubeconfig, "--host-dns", "-q")
			Expect(cmd.Start()).To(Succeed())
			time.Sleep(after) // any moment is the point
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if etc.resolvConf() != before {
				written++
			}
			c.delete().must()
			Expect(etc.resolvConf()).To(Equal(before), "killed after %v", after)
		}
		Expect(written).To(BeNumerically(">", 0), "never killed after the lines were written")
		expectNothingLeft(start)
	})

	It("and those of others, on a host that forwards", func() {
		start, err := inventory()
		Expect(err).NotTo(HaveOccurred())
		// The host is a network namespace of its own, the rest of the world
		// another, with the only nameserver in it.
		etc := newHostFiles("nameserver 198.18.9.2\n")
		self, err := os.Executable()
		Expect(err).NotTo(HaveOccurred())
		GinkgoT().Setenv("SKIFF_STATE_DIR", filepath.Join(string(etc), "state"))
		GinkgoT().Setenv("SKIFF_RUN_DIR", filepath.Join(string(etc), "run"))
		r := run("", "unshare", "--net", "--mount", "bash", "-ec", `
			export KUBECONFIG=$0/kubeconfig
			ip link set lo up
			echo 1 >/proc/sys/net/ipv4/ip_forward
			mkfifo $0/ready
			`+serveAt+`=198.18.9.2 unshare --net sh -c "ip link set lo up; echo >$0/ready; read -r _ <$0/wired; exec $1" >/dev/null 2>&1 &
			world=$!
			mkfifo $0/wired; read -r _ <$0/ready
			ip link add world type veth peer name host netns $world
			ip address add 198.18.9.1/24 dev world; ip link set world up
			nsenter --net --target $world sh -c 'ip address add 198.18.9.2/24 dev host; ip link set host up'
			echo >$0/wired
			trap "$2/bin/skiff delete cluster --name names -q; kill $world" EXIT
			$2/bin/skiff create cluster --name names --host-dns --wait 0s -q
			mount --bind $0/resolv.conf /etc/resolv.conf
			mount --bind $0/nsswitch.conf /etc/nsswitch.conf
			getent ahostsv4 outside.example.org
			getent ahostsv4 kubernetes.default.svc.cluster.local
			umount /etc/resolv.conf`, string(etc), self, root)
		Expect(r.must()).To(And(ContainSubstring("203.0.113.9 "), ContainSubstring("10.96.0.1 ")))
		Expect(etc.resolvConf()).To(Equal("nameserver 198.18.9.2\n"))
		expectNothingLeft(start)
	})
})

// serveAt makes the test program a DNS server that answers every question with
// one address.
const serveAt = "SKIFF_E2E_DNS"

func TestMain(m *testing.M) {
	if at := os.Getenv(serveAt); at != "" {
		err := dns.ListenAndServe(at+":53", "udp", dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
			reply := new(dns.Msg).SetReply(r)
			if r.Question[0].Qtype == dns.TypeA {
				reply.Answer = []dns.RR{&dns.A{
					Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5},
					A:   net.IPv4(203, 0, 113, 9),
				}}
			}
			_ = w.WriteMsg(reply)
		}))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
