package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// TestCounterSeesWhatLeaves is the control of the suite's counter: in a
// network namespace where packets may leave, it counts them.
func TestCounterSeesWhatLeaves(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	g := NewWithT(t)
	runtime.LockOSThread() // never unlocked: the thread goes with its namespace
	ns, err := netns.New()
	g.Expect(err).NotTo(HaveOccurred())
	defer ns.Close()
	up := func(name string, addresses ...string) netlink.Link {
		l, err := netlink.LinkByName(name)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(netlink.LinkSetUp(l)).To(Succeed())
		for _, a := range addresses {
			parsed, err := netlink.ParseAddr(a)
			g.Expect(err).NotTo(HaveOccurred())
			parsed.Flags = 0x02 // IFA_F_NODAD: usable at once
			g.Expect(netlink.AddrAdd(l, parsed)).To(Succeed())
		}
		return l
	}
	g.Expect(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "peer"})).To(Succeed())
	up("peer")
	for i := range 6 { // hosts have many
		g.Expect(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("more%d", i)}, PeerName: fmt.Sprintf("else%d", i)})).To(Succeed())
	}
	uplink := up("uplink", "192.0.2.1/24", "2001:db8::1/64")
	c, err := startCounter()
	g.Expect(err).NotTo(HaveOccurred())

	send := func(to string) {
		conn, err := net.Dial("udp", to)
		g.Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		g.Expect(err).NotTo(HaveOccurred())
	}
	for _, gateway := range []string{"192.0.2.2", "2001:db8::2"} {
		hw, err := net.ParseMAC("02:00:00:00:00:01")
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(netlink.NeighAdd(&netlink.Neigh{LinkIndex: uplink.Attrs().Index, IP: net.ParseIP(gateway), HardwareAddr: hw, State: netlink.NUD_PERMANENT})).To(Succeed())
		g.Expect(netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.ParseIP(gateway)})).To(Succeed())
	}
	send("198.51.100.7:9")
	send("[2001:db8:1::7]:9")
	g.Expect(c.seen()).To(BeEmpty(), "addresses that are no cluster's")

	send("10.96.0.7:9")
	send("[fd00:10:96::7]:9")
	seen, err := c.seen()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(seen).To(ContainElement("1 packets to uplink with destination 10.96.0.0/11"))
	g.Expect(seen).To(ContainElement("1 packets to uplink with destination fd00:10::/32"))
	g.Expect(c.close()).To(Succeed())
}

func TestSubtractLeavesWhatIsNotTheHosts(t *testing.T) {
	prefixes := func(all ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, s := range all {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for name, c := range map[string]struct {
		of        string
		own, left []netip.Prefix
	}{
		"nothing in it":       {"10.96.0.0/11", prefixes("192.0.2.0/24", "fd00::/64"), prefixes("10.96.0.0/11")},
		"a half":              {"10.96.0.0/11", prefixes("10.96.0.0/12"), prefixes("10.112.0.0/12")},
		"a quarter in middle": {"10.96.0.0/11", prefixes("10.112.0.0/13"), prefixes("10.96.0.0/12", "10.120.0.0/13")},
		"all of it":           {"10.96.0.0/11", prefixes("10.0.0.0/8"), nil},
		"IPv6":                {"fd00:10::/32", prefixes("fd00:10:8000::/33"), prefixes("fd00:10::/33")},
	} {
		if left := subtract(netip.MustParsePrefix(c.of), c.own); !slices.Equal(left, c.left) {
			t.Errorf("%s: %v, want %v", name, left, c.left)
		}
	}
}

func TestNameserversAreTheHosts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 10.255.255.53\nnameserver fe80::1%eth0\nsearch example.org\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := nameservers(file)
	want := []netip.Prefix{netip.MustParsePrefix("10.255.255.53/32"), netip.MustParsePrefix("fe80::1/128")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if got, err := nameservers(file + ".missing"); err != nil || len(got) > 0 {
		t.Errorf("without a file: %v, %v", got, err)
	}
}

func TestRangesOfBothFamilies(t *testing.T) {
	got, err := rangesIn([]byte(`{"cluster": {"networking": {"podSubnet": "10.244.0.0/16,fd00:10:244::/56", "serviceSubnet": "10.96.0.0/16",
		"nodeSubnet": "172.30.0.0/24", "loadBalancerSubnet": "172.31.0.0/24"}}}`))
	if want := 5; err != nil || len(got) != want {
		t.Fatalf("%v, %v; want %d ranges", got, err, want)
	}
	if _, err := rangesIn([]byte(`{"podSubnet": "10.244.0.0/16"}`)); err == nil {
		t.Error("a file without a Service range is taken")
	}
	if a := nearEnd(netip.MustParsePrefix("fd00:10:244::/56")); a != netip.MustParseAddr("fd00:10:244:ff:ffff:ffff:ffff:fff9") {
		t.Errorf("near the end is %s", a)
	}
}

var _ = Describe("containment", func() {
	It("unassigned addresses of every range are refused at once, on the host, in a node and in a pod", func() {
		shared.apply(`
apiVersion: v1
kind: Pod
metadata: {name: contained}
spec:
  nodeName: e2e-worker
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/e2e-test-images/agnhost:2.66.1}]
`).must()
		defer shared.kubectl("delete", "pod", "contained")
		shared.kubectl("wait", "pod/contained", "--for=condition=Ready", "--timeout=30s").must()
		for _, address := range unassigned() {
			probe := []string{"-c", "timeout 3 bash -c 'exec 3<>/dev/tcp/" + address + "/80'; echo code $?"}
			for where, r := range map[string]result{
				"host": run("", "bash", probe...),
				"node": skiff(append([]string{"exec", "e2e-worker", "--", "bash"}, probe...)...),
				"pod":  shared.kubectl(append([]string{"exec", "contained", "--", "bash"}, probe...)...),
			} {
				Expect(r.out).To(ContainSubstring("code 1"), fmt.Sprintf("%s from the %s: %s%s", address, where, r.out, r.errOut))
			}
		}
		Expect(uplinks.seen()).To(BeEmpty(), "packets of cluster ranges at the host's uplinks")
	})
})
