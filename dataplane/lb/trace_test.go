package lb

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

func TestTraceCall(t *testing.T) {
	sandbox.Root(t)
	at := netip.MustParseAddrPort
	node := func(name string, addrs ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, a := range addrs {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	four, six := sliceOf("10.244.1.1@n1"), sliceOf("fd00:244::1@n1")
	for name, es := range map[string]*discoveryv1.EndpointSlice{"web-4": four, "web-6": six} {
		es.Name, es.Namespace, es.Labels = name, "default", map[string]string{discoveryv1.LabelServiceName: "web"}
	}
	o := Objects{
		Services: []*corev1.Service{web(all(both, nodePort(corev1.ServiceExternalTrafficPolicyLocal), balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP, "192.0.2.0/24")))},
		Slices:   []*discoveryv1.EndpointSlice{four, six},
		Nodes:    []*corev1.Node{node("n1", "172.30.0.11", "fd00:30::11"), node("n2", "172.30.0.12")},
	}
	// The maps of n1 as its Loader wrote them, and one backend late.
	dir := sandbox.BPFFS(t)
	tab, err := table.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	f := newFeed(nil, "n1")
	for _, n := range o.Nodes {
		f.putNode(n)
	}
	f.putSlice(four)
	f.putSlice(six)
	f.putService(o.Services[0])
	for _, w := range f.plan(f.allServices(newClaims()), "n1") {
		for _, fe := range w.frontends {
			if fe.Addr == netip.MustParseAddr("fd00:96::7") {
				fe.Backends = []netip.AddrPort{at("[fd00:244::9]:8080")}
			}
			if _, err := tab.Set(fe); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tab.SetNodes(map[netip.Addr]bool{netip.MustParseAddr("172.30.0.11"): true, netip.MustParseAddr("fd00:30::11"): true, netip.MustParseAddr("172.30.0.12"): false}); err != nil {
		t.Fatal(err)
	}
	maps, err := table.Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	pod := netip.MustParseAddr("10.244.1.9")
	for _, c := range []struct {
		name    string
		call    Call
		service string
		key     string
		verdict Verdict
		late    bool
	}{
		{"a ClusterIP from a pod", Call{Node: "n1", From: pod, To: at("10.96.7.7:80"), Proto: table.TCP}, "web", "10.96.7.7:80/TCP", Translated, false},
		{"another port", Call{Node: "n1", From: pod, To: at("10.96.7.7:81"), Proto: table.TCP}, "", "", Untouched, false},
		{"another protocol", Call{Node: "n1", From: pod, To: at("10.96.7.7:80"), Proto: table.UDP}, "", "", Untouched, false},
		{"maps that are late", Call{Node: "n1", From: pod, To: at("[fd00:96::7]:80"), Proto: table.TCP}, "web", "[fd00:96::7]:80/TCP", Translated, true},
		{"the load balancer from a pod that is in no range", Call{Node: "n1", From: pod, To: at("172.31.0.5:80"), Proto: table.TCP}, "web", "172.31.0.5:80/TCP", RefusedSource, false},
		{"the load balancer from a range", Call{Node: "n1", From: netip.MustParseAddr("192.0.2.7"), To: at("172.31.0.5:80"), Proto: table.TCP}, "web", "172.31.0.5:80/TCP", Translated, false},
		{"the node's own port from a pod", Call{Node: "n1", From: pod, To: at("172.30.0.11:30080"), Proto: table.TCP}, "web", "node(IPv4):30080/TCP", Translated, false},
		{"another node's port from a pod, of policy Local", Call{Node: "n1", From: pod, To: at("172.30.0.12:30080"), Proto: table.TCP}, "web", "172.30.0.12:30080/TCP (from the node)", RefusedEmpty, false},
		{"another node's port from the node, of policy Local", Call{Node: "n1", HostNetwork: true, To: at("172.30.0.12:30080"), Proto: table.TCP}, "web", "172.30.0.12:30080/TCP (from the node)", RefusedEmpty, false},
		{"the node's loopback", Call{Node: "n1", HostNetwork: true, To: at("[::1]:30080"), Proto: table.TCP}, "web", "[::1]:30080/TCP", Translated, false},
		{"a pod's loopback", Call{Node: "n1", From: pod, To: at("127.0.0.1:30080"), Proto: table.TCP}, "", "", Untouched, false},
	} {
		got := TraceCall(c.call, o, maps)
		key := ""
		if got.Programmed != nil {
			key = got.Programmed.Key.String()
		}
		if got.Service.Name != c.service || key != c.key || got.Verdict != c.verdict || got.InSync() == c.late {
			t.Errorf("%s: service %q by %q, %s, in sync %v; want %q by %q, %s, %v", c.name, got.Service.Name, key, got.Verdict, got.InSync(), c.service, c.key, c.verdict, !c.late)
		}
		if c.late && (!slices.Equal(got.Missing, []netip.AddrPort{at("[fd00:244::1]:8080")}) || !slices.Equal(got.Extra, []netip.AddrPort{at("[fd00:244::9]:8080")})) {
			t.Errorf("%s: missing %v, extra %v", c.name, got.Missing, got.Extra)
		}
	}
}
