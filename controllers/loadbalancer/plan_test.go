package loadbalancer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/utils/ptr"
)

// service is an IPv4 Service of type LoadBalancer with port 80; a later number
// is younger.
func service(number int, changes ...func(*corev1.Service)) *corev1.Service {
	name := fmt.Sprintf("s%d", number)
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID(name),
			CreationTimestamp: metav1.NewTime(time.Unix(int64(number), 0)),
			Annotations:       map[string]string{},
		},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeLoadBalancer,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, change := range changes {
		change(svc)
	}
	return svc
}

func has(ips ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
		for _, ip := range ips {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
	}
}

func asks(ips string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations[AddressesAnnotation] = ips }
}

func asksInSpec(ip string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerIP = ip }
}

func shares(key string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations[SharingAnnotation] = key }
}

func port(port int32, protocol corev1.Protocol) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports = []corev1.ServicePort{{Port: port, Protocol: protocol}} }
}

func families(f ...corev1.IPFamily) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.IPFamilies = f }
}

func class(name string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &name }
}

func ofType(t corev1.ServiceType) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Type = t }
}

func deleted(s *corev1.Service) { s.DeletionTimestamp = ptr.To(metav1.Now()) }

func held(s *corev1.Service) {
	s.Finalizers = append(s.Finalizers, servicehelper.LoadBalancerCleanupFinalizer)
}

func externalIP(ip string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.ExternalIPs = []string{ip} }
}

// text prints decisions: name, finalizer, addresses, refusals.
func text(decisions []decision) []string {
	var out []string
	for _, d := range decisions {
		line := d.service.Name
		if d.finalizer {
			line += " finalizer"
		}
		for _, a := range d.addrs {
			line += " " + a.String()
		}
		if len(d.refusals) > 0 {
			line += " ! " + strings.Join(d.refusals, "; ")
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func TestPlan(t *testing.T) {
	const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol
	for name, c := range map[string]struct {
		ranges   string // default 172.31.0.0/29: six addresses to give away
		services []*corev1.Service
		want     []string
	}{
		"a new Service gets the lowest address after the range's first": {
			services: []*corev1.Service{service(1)},
			want:     []string{"s1 finalizer 172.31.0.1"},
		},
		"who has an address keeps it, and the others get what is free, the older the lower": {
			services: []*corev1.Service{service(3), service(2, has("172.31.0.2")), service(1)},
			want:     []string{"s1 finalizer 172.31.0.1", "s2 finalizer 172.31.0.2", "s3 finalizer 172.31.0.3"},
		},
		"a full range is said, and the last address is not given away": {
			services: []*corev1.Service{service(1), service(2), service(3), service(4), service(5), service(6), service(7)},
			want: []string{
				"s1 finalizer 172.31.0.1", "s2 finalizer 172.31.0.2", "s3 finalizer 172.31.0.3",
				"s4 finalizer 172.31.0.4", "s5 finalizer 172.31.0.5", "s6 finalizer 172.31.0.6",
				"s7 finalizer ! no free address in the cluster's LoadBalancer range 172.31.0.0/29",
			},
		},
		"a second range is used when the first is full": {
			ranges:   "172.31.0.0/31,172.31.1.0/31",
			services: []*corev1.Service{service(1), service(2), service(3)},
			want:     []string{"s1 finalizer 172.31.0.0", "s2 finalizer 172.31.0.1", "s3 finalizer 172.31.1.0"},
		},
		"a Service that does not ask for a load balancer is left alone": {
			services: []*corev1.Service{service(1, ofType(corev1.ServiceTypeClusterIP))},
		},
		"our class is ours": {
			services: []*corev1.Service{service(1, class(Class))},
			want:     []string{"s1 finalizer 172.31.0.1"},
		},
		"another's class is not ours, deleted or not": {
			services: []*corev1.Service{
				service(1, class("example.com/lb"), has("192.0.2.1")),
				service(2, class("example.com/lb"), has("192.0.2.2"), deleted),
			},
		},
		"an address of our range that another's Service has is taken": {
			services: []*corev1.Service{service(1, class("example.com/lb"), has("172.31.0.1")), service(2)},
			want:     []string{"s2 finalizer 172.31.0.2"},
		},
		"a deleted Service loses the finalizer, and its address is free when it is gone": {
			services: []*corev1.Service{service(1, has("172.31.0.1"), deleted), service(2)},
			want:     []string{"s1 172.31.0.1", "s2 finalizer 172.31.0.2"},
		},
		"a deleted Service that others hold loses its address next": {
			services: []*corev1.Service{service(1, has("172.31.0.1"), deleted, func(s *corev1.Service) { s.Finalizers = []string{"example.com/wait"} })},
			want:     []string{"s1"},
		},
		"a Service of another type by now loses the finalizer": {
			services: []*corev1.Service{service(1, held, ofType(corev1.ServiceTypeNodePort))},
			want:     []string{"s1"},
		},
		"spec.loadBalancerIP is granted, before younger and older Services that ask for nothing": {
			services: []*corev1.Service{service(1), service(2, asksInSpec("172.31.0.1")), service(3)},
			want:     []string{"s1 finalizer 172.31.0.2", "s2 finalizer 172.31.0.1", "s3 finalizer 172.31.0.3"},
		},
		"the first and the last address are for those who ask": {
			services: []*corev1.Service{service(1, asks("172.31.0.0")), service(2, asks("172.31.0.7"))},
			want:     []string{"s1 finalizer 172.31.0.0", "s2 finalizer 172.31.0.7"},
		},
		"an address outside of the range is refused": {
			services: []*corev1.Service{service(1, asksInSpec("192.0.2.1"))},
			want:     []string{"s1 finalizer ! requested address 192.0.2.1 is not in the cluster's LoadBalancer range 172.31.0.0/29"},
		},
		"a taken address is refused, even to an older Service": {
			services: []*corev1.Service{service(1, asks("172.31.0.4")), service(2, has("172.31.0.4"))},
			want:     []string{"s1 finalizer ! requested address 172.31.0.4 is in use by Service ns/s2", "s2 finalizer 172.31.0.4"},
		},
		"of two that ask for the same address the older one gets it": {
			services: []*corev1.Service{service(2, asks("172.31.0.4")), service(1, asks("172.31.0.4"))},
			want:     []string{"s1 finalizer 172.31.0.4", "s2 finalizer ! requested address 172.31.0.4 is in use by Service ns/s1"},
		},
		"who asks for another address moves": {
			services: []*corev1.Service{service(1, has("172.31.0.1"), asks("172.31.0.5"))},
			want:     []string{"s1 finalizer 172.31.0.5"},
		},
		"who asks for another address that is taken has none, whatever it had": {
			services: []*corev1.Service{service(1, has("172.31.0.1"), asks("172.31.0.5")), service(2, has("172.31.0.5"))},
			want:     []string{"s1 finalizer ! requested address 172.31.0.5 is in use by Service ns/s2", "s2 finalizer 172.31.0.5"},
		},
		"who asks no more keeps the address": {
			services: []*corev1.Service{service(1, has("172.31.0.5"))},
			want:     []string{"s1 finalizer 172.31.0.5"},
		},
		"spec and annotation at once are refused": {
			services: []*corev1.Service{service(1, asks("172.31.0.1"), asksInSpec("172.31.0.1"))},
			want:     []string{"s1 finalizer ! both spec.loadBalancerIP and the annotation skiff.cluster/load-balancer-ips ask for an address: keep one of them"},
		},
		"what is no address is refused": {
			services: []*corev1.Service{service(1, asksInSpec("lb.example.com")), service(2, asks("fe80::1%eth0")), service(3, asks("172.31.0.1,"))},
			want: []string{
				`s1 finalizer ! spec.loadBalancerIP: "lb.example.com" is not an IP address`,
				`s2 finalizer ! annotation skiff.cluster/load-balancer-ips: "fe80::1%eth0" is not an IP address`,
				`s3 finalizer ! annotation skiff.cluster/load-balancer-ips: "" is not an IP address`,
			},
		},
		"two addresses of one family are refused": {
			services: []*corev1.Service{service(1, asks("172.31.0.1, 172.31.0.2"))},
			want:     []string{"s1 finalizer ! annotation skiff.cluster/load-balancer-ips: 172.31.0.1 and 172.31.0.2 are both IPv4: ask for one address of each family"},
		},
		"an address of a family that the Service has not is refused": {
			services: []*corev1.Service{service(1, asksInSpec("fd00::1"))},
			want:     []string{"s1 finalizer ! spec.loadBalancerIP: fd00::1 is IPv6, but spec.ipFamilies is [IPv4]"},
		},
		"an address outside of the range in a status is replaced": {
			services: []*corev1.Service{service(1, has("192.0.2.1"))},
			want:     []string{"s1 finalizer 172.31.0.1"},
		},
		"of two that have the same address the younger one gets another": {
			services: []*corev1.Service{service(2, has("172.31.0.1")), service(1, has("172.31.0.1"))},
			want:     []string{"s1 finalizer 172.31.0.1", "s2 finalizer 172.31.0.2"},
		},
		"two with one key share the address that one asks for": {
			services: []*corev1.Service{
				service(1, shares("web"), has("172.31.0.3")),
				service(2, shares("web"), asks("172.31.0.3"), port(443, corev1.ProtocolTCP)),
				service(3, shares("web"), asks("172.31.0.3"), port(80, corev1.ProtocolUDP)),
			},
			want: []string{"s1 finalizer 172.31.0.3", "s2 finalizer 172.31.0.3", "s3 finalizer 172.31.0.3"},
		},
		"who shares keeps sharing": {
			services: []*corev1.Service{
				service(1, shares("web"), has("172.31.0.3")),
				service(2, shares("web"), has("172.31.0.3"), port(443, corev1.ProtocolTCP)),
			},
			want: []string{"s1 finalizer 172.31.0.3", "s2 finalizer 172.31.0.3"},
		},
		"one key alone is no wish to share": {
			services: []*corev1.Service{service(1, shares("web")), service(2, shares("web"), port(443, corev1.ProtocolTCP))},
			want:     []string{"s1 finalizer 172.31.0.1", "s2 finalizer 172.31.0.2"},
		},
		"the same port is not shared": {
			services: []*corev1.Service{service(1, shares("web"), has("172.31.0.3")), service(2, shares("web"), asks("172.31.0.3"))},
			want: []string{"s1 finalizer 172.31.0.3",
				`s2 finalizer ! requested address 172.31.0.3 is in use by Service ns/s1, which shares it as "web" but has the same port`},
		},
		"with another key nothing is shared, nor with none": {
			services: []*corev1.Service{
				service(1, shares("web"), has("172.31.0.3")),
				service(2, shares("dns"), asks("172.31.0.3"), port(53, corev1.ProtocolUDP)),
				service(3, asks("172.31.0.3"), port(53, corev1.ProtocolUDP)),
			},
			want: []string{"s1 finalizer 172.31.0.3",
				`s2 finalizer ! requested address 172.31.0.3 is in use by Service ns/s1, which does not share it as "dns"`,
				"s3 finalizer ! requested address 172.31.0.3 is in use by Service ns/s1"},
		},
		"a port that comes to be the same ends the sharing for the younger one": {
			services: []*corev1.Service{
				service(1, shares("web"), has("172.31.0.3")),
				service(2, shares("web"), has("172.31.0.3")),
			},
			want: []string{"s1 finalizer 172.31.0.3", "s2 finalizer 172.31.0.1"},
		},
		"an address that is a Service's external IP is not given away": {
			services: []*corev1.Service{
				service(1), service(2, ofType(corev1.ServiceTypeClusterIP), externalIP("172.31.0.1")), service(3, asks("172.31.0.1")),
			},
			want: []string{"s1 finalizer 172.31.0.2", "s3 finalizer ! requested address 172.31.0.1 is in use by Service ns/s2"},
		},
		"who names an address as its external IP does not take it away": {
			services: []*corev1.Service{service(1, has("172.31.0.1")), service(2, ofType(corev1.ServiceTypeClusterIP), externalIP("172.31.0.1"))},
			want:     []string{"s1 finalizer 172.31.0.1"},
		},
		"both families in the Service's order": {
			ranges:   "172.31.0.0/29,fd00::/64",
			services: []*corev1.Service{service(1, families(v6, v4)), service(2, families(v6))},
			want:     []string{"s1 finalizer fd00::1 172.31.0.1", "s2 finalizer fd00::2"},
		},
		"one family asked for, the other one free": {
			ranges:   "172.31.0.0/29,fd00::/64",
			services: []*corev1.Service{service(1, families(v4, v6), asks("fd00::abc")), service(2, families(v4, v6), asks("fd00::1,172.31.0.6"))},
			want:     []string{"s1 finalizer 172.31.0.1 fd00::abc", "s2 finalizer 172.31.0.6 fd00::1"},
		},
		"a family without a range is said, and the other one is given": {
			services: []*corev1.Service{service(1, families(v4, v6))},
			want:     []string{"s1 finalizer 172.31.0.1 ! the cluster has no LoadBalancer range of family IPv6"},
		},
		"a family that the Service has no more is taken away": {
			ranges:   "172.31.0.0/29,fd00::/64",
			services: []*corev1.Service{service(1, families(v4), has("172.31.0.1", "fd00::1"))},
			want:     []string{"s1 finalizer 172.31.0.1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.ranges == "" {
				c.ranges = "172.31.0.0/29"
			}
			if got := text(plan(parseRanges(c.ranges), c.services)); !slices.Equal(got, c.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
		})
	}
}

// TestPlanSettles plays random Services: no address has two that do not share
// it, and when what left is gone, the same is decided again in whatever order
// they come.
func TestPlanSettles(t *testing.T) {
	ranges := parseRanges("172.31.0.0/28,fd00::/124")
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		var services []*corev1.Service
		for i := range 30 {
			s := service(i, port(int32(80+random.IntN(3)), corev1.ProtocolTCP))
			if random.IntN(2) == 0 {
				families(corev1.IPv4Protocol, corev1.IPv6Protocol)(s)
			}
			for _, change := range []func(*corev1.Service){
				asks(fmt.Sprintf("172.31.0.%d", random.IntN(18))), shares("a"), shares("b"),
				has(fmt.Sprintf("172.31.0.%d", random.IntN(18))), externalIP("172.31.0.3"),
				deleted, class("example.com/other"), ofType(corev1.ServiceTypeClusterIP),
			} {
				if random.IntN(5) == 0 {
					change(s)
				}
			}
			services = append(services, s)
		}
		first := plan(ranges, services)
		owners := map[netip.Addr][]*corev1.Service{}
		for _, d := range first {
			if d.finalizer {
				for _, a := range d.addrs {
					for _, other := range owners[a] {
						if !share(other, d.service) {
							t.Fatalf("seed %d: %s has %s and %s", seed, a, other.Name, d.service.Name)
						}
					}
					owners[a] = append(owners[a], d.service)
				}
			}
		}
		settle := func(decisions []decision) {
			for _, d := range decisions {
				d.service.Status.LoadBalancer.Ingress = ingress(d.addrs)
				if !d.finalizer {
					d.service.Finalizers = nil
				}
			}
		}
		settle(first)
		for range 2 { // of a deleted Service the finalizer goes first
			first = plan(ranges, services)
			settle(first)
		}
		first = plan(ranges, services)
		random.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
		if before, after := text(first), text(plan(ranges, services)); !slices.Equal(before, after) {
			t.Fatalf("seed %d: first\n\t%s\nthen\n\t%s", seed, strings.Join(before, "\n\t"), strings.Join(after, "\n\t"))
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	ranges := []netip.Prefix{netip.MustParsePrefix("172.16.0.0/16")}
	var services []*corev1.Service
	for i := range 10_000 {
		s := service(i, ofType(corev1.ServiceTypeClusterIP))
		if i%10 == 0 {
			s = service(i, has(fmt.Sprintf("172.16.%d.%d", 1+i/2550, i/10%255)))
		}
		services = append(services, s)
	}
	for b.Loop() {
		plan(ranges, services)
	}
}

// parseRanges reads ranges separated by commas.
func parseRanges(text string) []netip.Prefix {
	var ranges []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		ranges = append(ranges, netip.MustParsePrefix(part))
	}
	return ranges
}
