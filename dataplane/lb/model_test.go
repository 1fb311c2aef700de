package lb

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// web is a Service with one port 80 and what change does to it.
func web(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.7.7", ClusterIPs: []string{"10.96.7.7"},
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports:           []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

func nodePort(policy corev1.ServiceExternalTrafficPolicy) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.ExternalTrafficPolicy = policy
		s.Spec.Ports[0].NodePort = 30080
	}
}

// ep is an endpoint "address@node", with marks: "!" not ready, "~" serving
// while it terminates, "#zone" a hint, "%node" one of the node.
func ep(text string) discoveryv1.Endpoint {
	var e discoveryv1.Endpoint
	text, zone, hinted := strings.Cut(text, "#")
	if hinted {
		e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
	}
	text, only, near := strings.Cut(text, "%")
	if near {
		e.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: only}}}
	}
	text, down := strings.CutSuffix(text, "!")
	text, leaving := strings.CutSuffix(text, "~")
	e.Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(!down && !leaving), Serving: ptr.To(!down), Terminating: ptr.To(leaving)}
	addr, node, ok := strings.Cut(text, "@")
	e.Addresses = []string{addr}
	if ok {
		e.NodeName = &node
	}
	return e
}

func sliceOf(eps ...string) *discoveryv1.EndpointSlice {
	es := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(8080))}},
	}
	for _, e := range eps {
		if strings.Contains(e, ":") {
			es.AddressType = discoveryv1.AddressTypeIPv6
		}
		es.Endpoints = append(es.Endpoints, ep(e))
	}
	return es
}

func sliceFor(proto corev1.Protocol, eps ...string) *discoveryv1.EndpointSlice {
	es := sliceOf(eps...)
	es.Ports[0].Protocol = ptr.To(proto)
	return es
}

func text(f table.Frontend) string {
	var b strings.Builder
	b.WriteString(f.Key.String())
	if f.NodeOnly {
		b.WriteString(" [node only]")
	}
	if f.NodeOwn {
		b.WriteString(" [node's own]")
	}
	if f.Affinity > 0 {
		b.WriteString(" [affinity " + f.Affinity.String() + "]")
	}
	if f.Sources != nil {
		fmt.Fprintf(&b, " [from %v]", f.Sources)
	}
	b.WriteString(" ->")
	back := slices.Clone(f.Backends)
	slices.SortFunc(back, netip.AddrPort.Compare)
	for _, a := range back {
		b.WriteString(" " + a.String())
	}
	if len(f.Keep) > 0 {
		fmt.Fprintf(&b, " keeping %v", f.Keep)
	}
	return b.String()
}

// six makes a Service of the test IPv6 only, both gives it a second family.
func six(s *corev1.Service) {
	s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00:96::7", []string{"fd00:96::7"}
	s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = []corev1.IPFamily{corev1.IPv6Protocol}, ptr.To(corev1.IPFamilyPolicySingleStack)
}

func both(s *corev1.Service) {
	s.Spec.ClusterIPs = []string{"10.96.7.7", "fd00:96::7"}
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack)
}

// balanced is a load balancer at the given address.
func balanced(ip string, mode corev1.LoadBalancerIPMode, ranges ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.LoadBalancerSourceRanges = ranges
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip, IPMode: &mode})
	}
}

// udp makes the port one of UDP.
func udp(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }

// all applies several changes.
func all(changes ...func(*corev1.Service)) func(*corev1.Service) {
	return func(s *corev1.Service) {
		for _, c := range changes {
			c(s)
		}
	}
}

func TestPlan(t *testing.T) {
	addr := netip.MustParseAddr
	nodes := map[string]node{
		"n1": {addrs: []netip.Addr{addr("172.30.0.11"), addr("fd00:30::11")}, zone: "a"},
		"n2": {addrs: []netip.Addr{addr("172.30.0.12"), addr("fd00:30::12")}, zone: "b"},
	}
	two := []*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1"), sliceOf("10.244.2.1@n2")}
	for _, c := range []struct {
		name    string
		service *corev1.Service
		slices  []*discoveryv1.EndpointSlice
		node    string // empty: the outside
		want    []string
	}{
		{"a ClusterIP leads to ready endpoints of all slices", web(nil), two, "n1", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
		}},
		{"no endpoints refuse", web(nil), nil, "n1", []string{"10.96.7.7:80/TCP ->"}},
		{"endpoints that are not ready do not count", web(nil), []*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1!", "10.244.1.2@n1~", "10.244.1.3@n1")}, "n1", []string{
			"10.96.7.7:80/TCP -> 10.244.1.3:8080",
		}},
		{"the last ones serve while they terminate", web(nil), []*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1!", "10.244.1.2@n1~")}, "n1", []string{
			"10.96.7.7:80/TCP -> 10.244.1.2:8080",
		}},
		{"an address that two pods have is the running one's", web(nil), []*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1~"), sliceOf("10.244.1.1@n1")}, "n1", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080",
		}},
		{"headless has no address", web(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }), two, "n1", nil},
		{"ExternalName has no address", web(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName; s.Spec.ClusterIP = "" }), two, "n1", nil},
		{"affinity", web(func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(int32(10800))}}
		}), two, "n1", []string{"10.96.7.7:80/TCP [affinity 3h0m0s] -> 10.244.1.1:8080 10.244.2.1:8080"}},
		{"internalTrafficPolicy Local", web(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}), two, "n2", []string{"10.96.7.7:80/TCP -> 10.244.2.1:8080"}},
		{"internalTrafficPolicy Local has nothing for the outside", web(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}), two, "", []string{"10.96.7.7:80/TCP ->"}},
		{"hints keep traffic in the zone", web(nil), []*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1#a", "10.244.2.1@n2#b")}, "n2", []string{
			"10.96.7.7:80/TCP -> 10.244.2.1:8080",
		}},
		{"node port from a node", web(nodePort(corev1.ServiceExternalTrafficPolicyCluster)), two, "n1", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
			"127.0.0.1:30080/TCP [node only] -> 10.244.1.1:8080 10.244.2.1:8080",
			"node(IPv4):30080/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
		}},
		{"node port from outside", web(nodePort(corev1.ServiceExternalTrafficPolicyCluster)), two, "", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
			"node(IPv4):30080/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
		}},
		{"externalTrafficPolicy Local from a node: all for itself and its pods, the other's own at the other", web(nodePort(corev1.ServiceExternalTrafficPolicyLocal)),
			[]*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1")}, "n1", []string{
				"10.96.7.7:80/TCP -> 10.244.1.1:8080",
				"127.0.0.1:30080/TCP [node only] -> 10.244.1.1:8080",
				"172.30.0.12:30080/TCP (from the node) ->",
				"node(IPv4):30080/TCP [node's own] -> 10.244.1.1:8080",
			}},
		{"externalTrafficPolicy Local from outside", web(nodePort(corev1.ServiceExternalTrafficPolicyLocal)),
			[]*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1", "10.244.1.2@n1~")}, "", []string{
				"10.96.7.7:80/TCP -> 10.244.1.1:8080",
				"172.30.0.11:30080/TCP -> 10.244.1.1:8080",
				"172.30.0.12:30080/TCP ->",
			}},
		{"load balancer and external addresses", web(func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.ExternalIPs = []string{"198.51.100.7", "172.31.0.5"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.31.0.5", IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}}
		}), two, "n1", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
			"172.31.0.5:80/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
			"198.51.100.7:80/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
		}},
		{"source ranges are for the load balancer's addresses", web(all(nodePort(corev1.ServiceExternalTrafficPolicyCluster), balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP, "192.0.2.0/24", " 198.51.100.7/32"), func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"198.51.100.9"}
		})), two[:1], "", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080",
			"172.31.0.5:80/TCP [from [192.0.2.0/24 198.51.100.7/32]] -> 10.244.1.1:8080",
			"198.51.100.9:80/TCP -> 10.244.1.1:8080",
			"node(IPv4):30080/TCP -> 10.244.1.1:8080",
		}},
		{"an address that is both is the load balancer's", web(all(balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP, "192.0.2.0/24"), func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"172.31.0.5"}
		})), nil, "n1", []string{
			"10.96.7.7:80/TCP ->",
			"172.31.0.5:80/TCP [from [192.0.2.0/24]] ->",
		}},
		{"a range of everything is none", web(balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP, "192.0.2.0/24", "0.0.0.0/0")), nil, "n1", []string{
			"10.96.7.7:80/TCP ->",
			"172.31.0.5:80/TCP ->",
		}},
		{"ranges of another family are none, as upstream", web(balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP, "2001:db8::/32")), nil, "n1", []string{
			"10.96.7.7:80/TCP ->",
			"172.31.0.5:80/TCP ->",
		}},
		{"a load balancer of mode Proxy is not short-cut", web(balanced("172.31.0.5", corev1.LoadBalancerIPModeProxy)), nil, "n1", []string{
			"10.96.7.7:80/TCP ->",
		}},
		{"a load balancer with externalTrafficPolicy Local has every endpoint, from outside and from nodes", web(all(balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP), func(s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			s.Spec.HealthCheckNodePort = 30999
		})), two, "", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
			"172.31.0.5:80/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
		}},
		{"node hints keep traffic on the node", web(nil), []*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1%n1", "10.244.2.1@n2%n2")}, "n2", []string{
			"10.96.7.7:80/TCP -> 10.244.2.1:8080",
		}},
		{"node hints of others only are ignored", web(nil), []*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1%n1")}, "n2", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080",
		}},
		{"zone hints that one endpoint lacks are ignored", web(nil), []*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1#a", "10.244.2.1@n2")}, "n2", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080 10.244.2.1:8080",
		}},
		{"publishNotReadyAddresses is the slice's conditions: ready counts, also while terminating", web(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), []*discoveryv1.EndpointSlice{{
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       sliceOf().Ports,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.1"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(false), Terminating: ptr.To(true)}}},
		}}, "n1", []string{"10.96.7.7:80/TCP -> 10.244.1.1:8080"}},
		{"internalTrafficPolicy Local without an endpoint on the node refuses", web(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		}), two[:1], "n2", []string{"10.96.7.7:80/TCP ->"}},
		{"a UDP flow stays while its endpoint serves", web(udp), []*discoveryv1.EndpointSlice{sliceFor(corev1.ProtocolUDP, "10.244.1.1@n1", "10.244.1.2@n1~", "10.244.1.3@n1!")}, "n1", []string{
			"10.96.7.7:80/UDP -> 10.244.1.1:8080 keeping [10.244.1.2:8080]",
		}},
		{"IPv6 alone", web(all(six, nodePort(corev1.ServiceExternalTrafficPolicyLocal))), []*discoveryv1.EndpointSlice{sliceOf("fd00:244::1@n1"), sliceOf("10.244.2.1@n2")}, "n1", []string{
			"[::1]:30080/TCP [node only] -> [fd00:244::1]:8080",
			"[fd00:30::12]:30080/TCP (from the node) ->",
			"[fd00:96::7]:80/TCP -> [fd00:244::1]:8080",
			"node(IPv6):30080/TCP [node's own] -> [fd00:244::1]:8080",
		}},
		{"dual stack: each family its own endpoints, load balancers and external addresses", web(all(both, balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP), balanced("fd00:31::5", corev1.LoadBalancerIPModeVIP, "192.0.2.0/24", "2001:db8::/32"), func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"198.51.100.7", "2001:db8::7"}
		})), []*discoveryv1.EndpointSlice{sliceOf("10.244.1.1@n1"), sliceOf("fd00:244::1@n1", "fd00:244::2@n2")}, "", []string{
			"10.96.7.7:80/TCP -> 10.244.1.1:8080",
			"172.31.0.5:80/TCP [from [192.0.2.0/24]] -> 10.244.1.1:8080",
			"198.51.100.7:80/TCP -> 10.244.1.1:8080",
			"[2001:db8::7]:80/TCP -> [fd00:244::1]:8080 [fd00:244::2]:8080",
			"[fd00:31::5]:80/TCP [from [2001:db8::/32]] -> [fd00:244::1]:8080 [fd00:244::2]:8080",
			"[fd00:96::7]:80/TCP -> [fd00:244::1]:8080 [fd00:244::2]:8080",
		}},
		{"SCTP, which does not answer on loopback addresses", web(all(nodePort(corev1.ServiceExternalTrafficPolicyCluster), func(s *corev1.Service) {
			s.Spec.Ports[0].Protocol = corev1.ProtocolSCTP
		})), []*discoveryv1.EndpointSlice{sliceFor(corev1.ProtocolSCTP, "10.244.1.1@n1")}, "n1", []string{
			"10.96.7.7:80/SCTP -> 10.244.1.1:8080",
			"node(IPv4):30080/SCTP -> 10.244.1.1:8080",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			if s := newService(c.service); s != nil {
				var found []*slice
				for _, es := range c.slices {
					found = append(found, newSlice(es))
				}
				for _, f := range plan(s, found, view{node: c.node, nodes: nodes}) {
					got = append(got, text(f))
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
			}
		})
	}
}

func TestCgroupRoot(t *testing.T) {
	for _, c := range []struct{ name, mountinfo, want string }{
		{"hybrid", `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw
`, "/sys/fs/cgroup/unified"},
		{"pure v2", "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup"},
		{"a mount of a part is not the root", `35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
36 24 0:30 /kubepods/pod1 /var/lib/x rw - cgroup2 cgroup2 rw
`, "/sys/fs/cgroup"},
		{"none", "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n", ""},
	} {
		got, err := cgroupRoot(strings.NewReader(c.mountinfo))
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: got %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestMountedNetns(t *testing.T) {
	got := mountedNetns(`41 23 0:4 net:[4026532281] /run/netns/with\040blank rw shared:22 - nsfs nsfs rw
42 23 0:4 mnt:[4026532282] /run/mnt rw shared:22 - nsfs nsfs rw
43 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
`)
	if len(got) != 1 || got["net:[4026532281]"] != "/run/netns/with blank" {
		t.Errorf("got %v", got)
	}
}

func TestHealthChecksCountReadyEndpointsOfTheirFamily(t *testing.T) {
	local := func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 30999
	}
	found := []*slice{
		newSlice(sliceOf("10.244.1.1@n1", "10.244.1.2@n1~", "10.244.1.3@n1!", "10.244.2.1@n2")),
		newSlice(sliceOf("fd00:244::1@n1", "fd00:244::2@n1")),
		newSlice(sliceOf("10.244.1.1@n1")), // the same pod on its way to another slice
	}
	four, six := corev1.IPv4Protocol, corev1.IPv6Protocol
	for _, c := range []struct {
		name    string
		service *corev1.Service
		want    map[corev1.IPFamily]check
	}{
		{"a load balancer of policy Local", web(all(both, balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP), local)), map[corev1.IPFamily]check{four: {30999, 1}, six: {30999, 2}}},
		{"of one family", web(all(balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP), local)), map[corev1.IPFamily]check{four: {30999, 1}}},
		{"of policy Cluster", web(all(both, balanced("172.31.0.5", corev1.LoadBalancerIPModeVIP))), nil},
		{"no load balancer", web(all(both, nodePort(corev1.ServiceExternalTrafficPolicyLocal))), nil},
	} {
		if got := checksOf(newService(c.service), found, "n1"); !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
