package lb

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// objects are what an API server would hold in the property test.
type objects struct {
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
	nodes    map[string]*corev1.Node
}

// pick is one of a few values.
func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// randomService is a Service as the API server would have defaulted it. Its
// addresses are its own, by its number.
func randomService(r *rand.Rand, i int) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("s%d", i), UID: types.UID(fmt.Sprint(i))},
		Spec: corev1.ServiceSpec{
			Type:                  pick(r, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer),
			SessionAffinity:       corev1.ServiceAffinityNone,
			InternalTrafficPolicy: ptr.To(pick(r, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)),
		},
	}
	four, six := fmt.Sprintf("10.96.0.%d", i+1), fmt.Sprintf("fd00:96::%x", i+1)
	s.Spec.ClusterIPs = pick(r, []string{four}, []string{six}, []string{four, six}, []string{six, four}, []string{corev1.ClusterIPNone})
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	if r.IntN(3) == 0 {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(int32(1 + r.IntN(100)))}}
	}
	for n := range 1 + r.IntN(2) {
		p := corev1.ServicePort{Name: fmt.Sprintf("p%d", n), Port: int32(80 + n), Protocol: pick(r, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)}
		if s.Spec.Type != corev1.ServiceTypeClusterIP {
			p.NodePort = int32(30000 + 10*i + n)
		}
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
	if s.Spec.Type != corev1.ServiceTypeClusterIP {
		s.Spec.ExternalTrafficPolicy = pick(r, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	}
	if r.IntN(3) == 0 {
		s.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.100.%d", i), fmt.Sprintf("2001:db8::%x", i)}
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			s.Spec.HealthCheckNodePort = int32(31000 + i)
		}
		s.Spec.LoadBalancerSourceRanges = pick(r, nil, nil, []string{"192.0.2.0/24", "fd00:1::/32"}, []string{fmt.Sprintf("192.0.2.%d/32", i)}, []string{"::/0"})
		for _, ip := range []string{fmt.Sprintf("172.31.0.%d", i+1), fmt.Sprintf("fd00:31::%x", i+1)} {
			if r.IntN(3) > 0 {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip, IPMode: ptr.To(pick(r, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy))})
			}
		}
	}
	return s
}

// randomSlice is one of a service's slices.
func randomSlice(r *rand.Rand, service string, n int) *discoveryv1.EndpointSlice {
	es := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("%s-%d", service, n), Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: pick(r, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6),
	}
	for p := range 2 {
		for _, proto := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
			es.Ports = append(es.Ports, discoveryv1.EndpointPort{Name: ptr.To(fmt.Sprintf("p%d", p)), Protocol: ptr.To(proto), Port: ptr.To(int32(8080 + p))})
		}
	}
	most := pick(r, 3, 3, 30)
	for range r.IntN(most) {
		host := r.IntN(most)
		addr := fmt.Sprintf("10.244.0.%d", host)
		if es.AddressType == discoveryv1.AddressTypeIPv6 {
			addr = fmt.Sprintf("fd00:244::%x", host)
		}
		ready, leaving := r.IntN(3) > 0, r.IntN(4) == 0
		e := discoveryv1.Endpoint{
			Addresses:  []string{addr},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready && !leaving), Serving: ptr.To(ready), Terminating: ptr.To(leaving)},
			NodeName:   ptr.To(fmt.Sprintf("n%d", 1+host%3)),
		}
		switch r.IntN(6) {
		case 0:
			e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: pick(r, "a", "b")}}}
		case 1:
			e.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: pick(r, "n1", "n2")}}}
		}
		es.Endpoints = append(es.Endpoints, e)
	}
	return es
}

func randomNode(r *rand.Rand, i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), Labels: map[string]string{corev1.LabelTopologyZone: pick(r, "a", "b", "")}}}
	for _, ip := range []string{fmt.Sprintf("172.30.0.1%d", i), fmt.Sprintf("fd00:30::1%d", i)} {
		if r.IntN(4) > 0 {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
	}
	return n
}

// edit changes one object and tells the feed, as a watch does.
func (o *objects) edit(r *rand.Rand, f *feed) error {
	services := &kindStore{feed: f, put: f.putService, drop: f.dropService}
	endpoints := &kindStore{feed: f, put: f.putSlice, drop: f.dropSlice}
	nodes := &kindStore{feed: f, put: f.putNode, drop: f.dropNode}
	i := r.IntN(8)
	switch kind := r.IntN(20); {
	case kind < 7:
		s := randomService(r, i)
		if gone, ok := o.services[s.Name]; ok && r.IntN(4) == 0 {
			delete(o.services, s.Name)
			return services.Delete(gone)
		}
		o.services[s.Name] = s
		return services.Update(s)
	case kind < 18:
		es := randomSlice(r, fmt.Sprintf("s%d", i), r.IntN(3))
		if gone, ok := o.slices[es.Name]; ok && r.IntN(5) == 0 {
			delete(o.slices, es.Name)
			return endpoints.Delete(gone)
		}
		o.slices[es.Name] = es
		return endpoints.Update(es)
	default:
		n := randomNode(r, 1+r.IntN(3))
		if gone, ok := o.nodes[n.Name]; ok && r.IntN(4) == 0 {
			delete(o.nodes, n.Name)
			return nodes.Delete(gone)
		}
		o.nodes[n.Name] = n
		return nodes.Update(n)
	}
}

// planned is what a process that starts now would have one target hold.
func (o *objects) planned(node string) []string {
	f := newFeed(nil, node)
	for _, n := range o.nodes {
		f.putNode(n)
	}
	for _, es := range o.slices {
		f.putSlice(es)
	}
	for _, s := range o.services {
		f.putService(s)
	}
	var out []string
	for _, w := range f.plan(f.allServices(), node) {
		for _, fe := range w.frontends {
			out = append(out, canonical(fe))
		}
	}
	slices.Sort(out)
	return out
}

// canonical is all of a frontend as text, in an order of its own.
func canonical(f table.Frontend) string {
	keep := slices.Clone(f.Keep)
	slices.SortFunc(keep, netip.AddrPort.Compare)
	f.Keep = keep
	sources := slices.Clone(f.Sources)
	slices.SortFunc(sources, netip.Prefix.Compare)
	f.Sources = sources
	return fmt.Sprintf("%s group %d", text(f), f.Group)
}

// TestMapsFollowThousandsOfEdits: whatever happened before, the kernel's maps
// of a node and of the switch, as another process reads them, are what one
// would plan from the objects that there are.
func TestMapsFollowThousandsOfEdits(t *testing.T) {
	sandbox.Root(t)
	edits := 0
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 7))
		dirs := map[string]string{"n1": sandbox.BPFFS(t), "": sandbox.BPFFS(t)}
		l := &Loader{log: slog.Default(), feed: newFeed(nil, "n1"), health: newHealth("n1", nil, nil), departures: newDepartures()}
		l.feed.missing = 0
		for _, node := range []string{"n1", ""} {
			tab, err := table.Create(dirs[node])
			if err != nil {
				t.Fatal(err)
			}
			l.targets = append(l.targets, &target{name: "maps of " + node, node: node, table: tab, claims: newClaims()})
		}
		o := &objects{services: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}, nodes: map[string]*corev1.Node{}}
		for range 60 {
			for range 1 + r.IntN(15) {
				if err := o.edit(r, l.feed); err != nil {
					t.Fatal(err)
				}
				edits++
			}
			if c, ok := l.feed.take(); ok {
				if failed := l.apply(c); len(failed) > 0 {
					t.Fatal(failed)
				}
			}
			for i, tgt := range l.targets {
				other, err := table.Open(dirs[tgt.node])
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, f := range other.Frontends() {
					got = append(got, canonical(f))
				}
				slices.Sort(got)
				if want := o.planned(tgt.node); !slices.Equal(got, want) {
					t.Fatalf("seed %d, after %d edits, seen from %q: the kernel has\n  %s\nwant\n  %s", seed, edits, tgt.node, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
				}
				// Now and then another process goes on.
				if r.IntN(10) == 0 {
					if err := tgt.table.Close(); err != nil {
						t.Fatal(err)
					}
					l.targets[i].table = other
				} else if err := other.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, tgt := range l.targets {
			if err := tgt.table.Close(); err != nil {
				t.Error(err)
			}
			if err := table.Unpin(dirs[tgt.node]); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("%d edits", edits)
}
