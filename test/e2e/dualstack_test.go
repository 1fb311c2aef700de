package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// kindOfCluster is one that has IPv6.
type kindOfCluster struct {
	name, networking string
	// families in order, the primary one first.
	families []string
	// loopback is where the host's ports are.
	loopback string
	// controlPlanes is how many there are.
	controlPlanes int
}

var kindsOfClusters = []kindOfCluster{
	{"dual", "{ipFamily: dual}", []string{"IPv4", "IPv6"}, "127.0.0.1", 1},
	{"dual6", `{ipFamily: dual, serviceSubnet: "fd00:10:fe::/112,10.111.0.0/16"}`, []string{"IPv6", "IPv4"}, "127.0.0.1", 3},
	{"ipv6", "{ipFamily: ipv6}", []string{"IPv6"}, "::1", 1},
}

// family is the word of the API for an address.
func family(address string) string {
	a, err := netip.ParseAddr(address)
	switch {
	case err != nil:
		return fmt.Sprintf("%q: %v", address, err)
	case a.Is4():
		return "IPv4"
	default:
		return "IPv6"
	}
}

func familiesOf(addresses []string) []string {
	var all []string
	for _, a := range addresses {
		all = append(all, family(a))
	}
	return all
}

// url of a port, with brackets where they belong.
func url(address, port, path string) string {
	return "http://" + net.JoinHostPort(address, port) + path
}

// netexec is a pod that tells who asks, on a node of one's choice.
func netexec(name, node, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: netexec, name: %[1]s}}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 0
  tolerations: [{operator: Exists}]
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/agnhost:2.66.1
    args: [netexec, --http-port=8080]
    readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
%[3]s
---
`, name, node, more)
}

var _ = Describe("a cluster with IPv6", func() {
	for _, kind := range kindsOfClusters {
		Describe(kind.name, Ordered, func() {
			var c cluster
			var a, b []string // the pods' addresses
			curl := func(from string, more ...string) result {
				return c.kubectl(append([]string{"exec", from, "--", "curl", "-gsS", "-m", "5"}, more...)...)
			}

			BeforeAll(func() {
				var r result
				c, r = create("e2e-"+kind.name, fmt.Sprintf(`
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
networking: %s
nodes:
- role: control-plane
  extraPortMappings: [{containerPort: 8080, hostPort: 0}]
- role: worker
%s`, kind.networking, strings.Repeat("- role: control-plane\n", kind.controlPlanes-1)))
				r.must()
				for _, p := range c.ranges() {
					Expect(uplinks.covers(p)).To(BeTrue(), "the firewall counter does not watch "+p.String())
				}
				c.apply(netexec("a", c.name+"-control-plane", "") + netexec("b", c.name+"-worker", "") +
					netexec("host", c.name+"-control-plane", "  hostNetwork: true")).must()
				c.kubectl("wait", "pod", "--all", "--for=condition=Ready", "--timeout=30s").must()
				a = strings.Fields(c.get("pod/a", "{.status.podIPs[*].ip}"))
				b = strings.Fields(c.get("pod/b", "{.status.podIPs[*].ip}"))
			})
			AfterAll(func() {
				if CurrentSpecReport().Failed() {
					skiff("export", "logs", root+"/_output/e2e-logs-"+kind.name, "--name", c.name)
				}
				c.delete().must()
			})

			It("has addresses of its families everywhere, the primary one first", func() {
				Expect(familiesOf(a)).To(Equal(kind.families))
				Expect(familiesOf(b)).To(Equal(kind.families))
				Expect(familiesOf(strings.Fields(c.get("pod/host", "{.status.podIPs[*].ip}")))).To(Equal(kind.families))
				for _, node := range []string{c.name + "-control-plane", c.name + "-worker"} {
					ips := strings.Fields(c.get("node/"+node, `{.status.addresses[?(@.type=="InternalIP")].address}`))
					Expect(familiesOf(ips)).To(Equal(kind.families))
					var cidrs []string
					for _, cidr := range strings.Fields(c.get("node/"+node, `{.spec.podCIDRs[*]}`)) {
						cidrs = append(cidrs, strings.Split(cidr, "/")[0])
					}
					Expect(familiesOf(cidrs)).To(Equal(kind.families))
				}
				Expect(strings.Fields(c.get("service/kubernetes", "{.spec.ipFamilies[*]}"))).To(Equal(kind.families[:1]))
			})

			It("connects pods in every family, each seen as itself", func() {
				for i, ip := range b {
					out := curl("a", url(ip, "8080", "/clientip")).must()
					host, _, err := net.SplitHostPort(out)
					Expect(err).NotTo(HaveOccurred())
					Expect(host).To(Equal(a[i]))
				}
			})

			It("connects the host with pods and nodes", func() {
				nodes := strings.Fields(c.get("node/"+c.name+"-control-plane", `{.status.addresses[?(@.type=="InternalIP")].address}`))
				for _, ip := range append(append(nodes, a...), b...) {
					Eventually(func() (string, error) { return fetch(url(ip, "8080", "/hostname")) }).ShouldNot(BeEmpty(), ip)
				}
			})

			It("leads a mapped port of the host to the node", func() {
				var port string
				for _, line := range strings.Split(skiff("get", "nodes", "--name", c.name, "-o", "json").must(), "\n") {
					if _, after, ok := strings.Cut(line, `"hostPort":`); ok {
						port = strings.Trim(after, " ,}")
					}
				}
				Expect(fetch(url(kind.loopback, port, "/hostname"))).To(Equal(c.name + "-control-plane"))
			})

			It("refuses addresses that nobody has at once", func() {
				for _, p := range c.ranges() {
					for range 7 {
						p = netip.PrefixFrom(p.Addr().Next(), p.Bits())
					}
					r := curl("a", url(p.Addr().String(), "80", "/"))
					Expect(r.errOut).To(ContainSubstring("curl: (7)"), "a refusal; a time-out would be (28)")
				}
			})

			It("answers by the Service's addresses and names, in pods and on the host", func() {
				c.apply(`
apiVersion: v1
kind: Service
metadata: {name: netexec}
spec:
  ipFamilyPolicy: PreferDualStack
  type: NodePort
  selector: {app: netexec}
  ports: [{port: 80, targetPort: 8080}]
`).must()
				ips := strings.Fields(c.get("service/netexec", "{.spec.clusterIPs[*]}"))
				Expect(familiesOf(ips)).To(Equal(kind.families))
				for _, ip := range ips {
					Eventually(func() string { return curl("a", url(ip, "80", "/hostname")).out }).ShouldNot(BeEmpty(), ip)
					Eventually(func() (string, error) { return fetch(url(ip, "80", "/hostname")) }).ShouldNot(BeEmpty(), ip)
				}
				Eventually(func() string { return curl("a", "http://netexec/hostname").out }).ShouldNot(BeEmpty())
				port := c.get("service/netexec", "{.spec.ports[0].nodePort}")
				for _, ip := range strings.Fields(c.get("nodes", `{.items[*].status.addresses[?(@.type=="InternalIP")].address}`)) {
					Eventually(func() (string, error) { return fetch(url(ip, port, "/hostname")) }).ShouldNot(BeEmpty(), ip)
				}
			})

			if kind.controlPlanes == 1 {
				return
			}
			It("goes on without one of its control planes", func() {
				c.losesAControlPlane()
				Expect(curl("b", "-k", "https://kubernetes/readyz").must()).To(Equal("ok"))
			})
		})
	}
})
