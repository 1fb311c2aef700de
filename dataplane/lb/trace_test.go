package lb

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/dataplane/inet"
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
	for _, w := range f.plan(f.allServices(), "n1") {
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
		{"a ClusterIP from a pod", Call{Node: "n1", From: pod, To: at("10.96.7.7:80"), Proto: inet.TCP}, "web", "10.96.7.7:80/TCP", Translated, false},
		{"another port", Call{Node: "n1", From: pod, To: at("10.96.7.7:81"), Proto: inet.TCP}, "", "", Untouched, false},
		{"another protocol", Call{Node: "n1", From: pod, To: at("10.96.7.7:80"), Proto: inet.UDP}, "", "", Untouched, false},
		{"maps that are late", Call{Node: "n1", From: pod, To: at("[fd00:96::7]:80"), Proto: inet.TCP}, "web", "[fd00:96::7]:80/TCP", Translated, true},
		{"the load balancer from a pod that is in no range", Call{Node: "n1", From: pod, To: at("172.31.0.5:80"), Proto: inet.TCP}, "web", "172.31.0.5:80/TCP", RefusedSource, false},
		{"the load balancer from a range", Call{Node: "n1", From: netip.MustParseAddr("192.0.2.7"), To: at("172.31.0.5:80"), Proto: inet.TCP}, "web", "172.31.0.5:80/TCP", Translated, false},
		{"the node's own port from a pod", Call{Node: "n1", From: pod, To: at("172.30.0.11:30080"), Proto: inet.TCP}, "web", "node(IPv4):30080/TCP", Translated, false},
		{"another node's port from a pod, of policy Local", Call{Node: "n1", From: pod, To: at("172.30.0.12:30080"), Proto: inet.TCP}, "web", "172.30.0.12:30080/TCP (from the node)", RefusedEmpty, false},
		{"another node's port from the node, of policy Local", Call{Node: "n1", HostNetwork: true, To: at("172.30.0.12:30080"), Proto: inet.TCP}, "web", "172.30.0.12:30080/TCP (from the node)", RefusedEmpty, false},
		{"the node's loopback", Call{Node: "n1", HostNetwork: true, To: at("[::1]:30080"), Proto: inet.TCP}, "web", "[::1]:30080/TCP", Translated, false},
		{"a pod's loopback", Call{Node: "n1", From: pod, To: at("127.0.0.1:30080"), Proto: inet.TCP}, "", "", Untouched, false},
	} {
		got := TraceCall(c.call, o, maps)
		key := ""
		if got.Programmed != nil {
			key = got.Programmed.Key.String()
		}
		if got.Service.Name != c.service || key != c.key || got.Verdict != c.verdict || got.InSync() == c.late {
			t.Errorf("%s: service %q by %q, %s, in sync %v; want %q by %q, %s, %v", c.name, got.Service.Name, key, got.Verdict, got.InSync(), c.service, c.key, c.verdict, !c.late)
		}
		if c.service != "" && (got.Port != "http" || len(got.Endpoints) != 1 || got.Endpoints[0].Node != "n1" || !got.Endpoints[0].Ready) {
			t.Errorf("%s: port %q, endpoints %+v", c.name, got.Port, got.Endpoints)
		}
		if c.late && (!slices.Equal(got.Missing, []netip.AddrPort{at("[fd00:244::1]:8080")}) || !slices.Equal(got.Extra, []netip.AddrPort{at("[fd00:244::9]:8080")})) {
			t.Errorf("%s: missing %v, extra %v", c.name, got.Missing, got.Extra)
		}
	}
}

func TestDifferencesNameTheEntry(t *testing.T) {
	key := table.Key{Addr: netip.MustParseAddr("10.96.7.7"), Port: 80, Proto: inet.TCP}
	at, prefix := netip.MustParseAddrPort, netip.MustParsePrefix
	planned := table.Frontend{Key: key, Group: 7, Backends: []netip.AddrPort{at("10.244.1.1:8080")}, Sources: []netip.Prefix{prefix("192.0.2.0/24"), prefix("10.0.0.0/8")}}
	other := func(change func(*table.Frontend)) *table.Frontend {
		f := planned
		change(&f)
		return &f
	}
	for _, c := range []struct {
		name  string
		trace Trace
		want  string
	}{
		{"equal", Trace{Planned: &planned, Programmed: &planned}, ""},
		{"neither", Trace{}, ""},
		{"a host port is in no plan", Trace{Programmed: &planned, HostPort: true}, ""},
		{"missing", Trace{Planned: &planned}, "lb_services lacks 10.96.7.7:80/TCP"},
		{"left over", Trace{Programmed: &planned}, "lb_services has 10.96.7.7:80/TCP"},
		{"the order of source ranges is none", Trace{Planned: &planned, Programmed: other(func(f *table.Frontend) {
			f.Sources = []netip.Prefix{prefix("10.0.0.0/8"), prefix("192.0.2.0/24")}
		})}, ""},
		{"other source ranges", Trace{Planned: &planned, Programmed: other(func(f *table.Frontend) { f.Sources = f.Sources[:1] })}, "has the source ranges [192.0.2.0/24]"},
		{"everybody instead of nobody", Trace{Planned: other(func(f *table.Frontend) { f.Sources = []netip.Prefix{} }), Programmed: other(func(f *table.Frontend) { f.Sources = nil })}, "has the source ranges []"},
		{"affinity", Trace{Planned: &planned, Programmed: other(func(f *table.Frontend) { f.Affinity = time.Hour })}, "has the affinity 1h0m0s, planned is 0s"},
		{"another port's", Trace{Planned: &planned, Programmed: other(func(f *table.Frontend) { f.Group = 8 })}, "is not of the planned kind"},
		{"a backend less", Trace{Planned: &planned, Programmed: &planned, Missing: planned.Backends}, "lacks the backend 10.244.1.1:8080"},
		{"a backend more", Trace{Planned: &planned, Programmed: &planned, Extra: planned.Backends}, "has the backend 10.244.1.1:8080"},
	} {
		have := strings.Join(c.trace.Differences(), "; ")
		if (c.want == "") != (have == "") || !strings.Contains(have, c.want) || c.trace.InSync() != (have == "") {
			t.Errorf("%s: %q, want %q", c.name, have, c.want)
		}
	}
}
