package policy

import (
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// policyFrom reads a NetworkPolicy's spec; it is default/name.
func policyFrom(t testing.TB, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatal(err)
	}
	p.Namespace, p.Name = "default", name
	return p
}

// lab is one node with isolated and free pods.
type lab struct {
	*bench
	model *model
	pods  map[string]Pod
}

// The addresses of a lab, of one family each.
var (
	server4, server6   = netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("fd00::1")
	client4, client6   = netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("fd00::2")
	free4, free6       = netip.MustParseAddr("10.244.0.3"), netip.MustParseAddr("fd00::3")
	outside4, outside6 = netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")
	router4, router6   = netip.MustParseAddr("172.30.0.1"), netip.MustParseAddr("fd30::1")
)

// newLab has the pods server, which lets clients call port 80 and 53 only,
// client, which may call server and nobody else, and free.
func newLab(t testing.TB) *lab {
	l := &lab{bench: newBench(t), model: newModel("n0"), pods: map[string]Pod{}}
	for name, addrs := range map[string][]netip.Addr{
		"server": {server4, server6}, "client": {client4, client6}, "free": {free4, free6},
	} {
		p := Pod{Name: types.NamespacedName{Namespace: "default", Name: name}, Labels: map[string]string{"app": name}, Addrs: addrs, Node: "n0"}
		l.pods[name] = p
		l.model.setPod(p)
	}
	l.model.setNamespace("default", nil)
	l.policy("server", `
podSelector: {matchLabels: {app: server}}
policyTypes: [Ingress]
ingress:
- from: [{podSelector: {matchLabels: {app: client}}}]
  ports: [{port: 80}, {port: 53, protocol: UDP}]`)
	l.policy("client", `
podSelector: {matchLabels: {app: client}}
policyTypes: [Egress]
egress:
- to: [{podSelector: {matchLabels: {app: server}}}]`)
	return l
}

func (l *lab) policy(name, spec string) {
	l.Helper()
	l.model.setPolicy(newPolicy(policyFrom(l, name, spec)))
	l.apply(l.model.commit())
}

// ends are two addresses of one family.
type ends struct {
	name                                  string
	server, client, free, outside, router netip.Addr
	icmp                                  inet.Protocol
	request, reply, unreachable           byte
}

var families = []ends{
	{"IPv4", server4, client4, free4, outside4, router4, inet.ICMP, 8, 0, 3},
	{"IPv6", server6, client6, free6, outside6, router6, inet.ICMPv6, 128, 129, 1},
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// TestForwardedPackets tells stories: each step is a packet and what becomes
// of it.
func TestForwardedPackets(t *testing.T) {
	type step struct {
		what    string
		packet  datagram
		allowed bool
	}
	for _, f := range families {
		quote := func(d datagram) []byte { return d.bytes()[:len(d.bytes())-len(d.transport())+8] }
		tcp := func(src, dst netip.AddrPort, flags byte) datagram {
			return datagram{src: src, dst: dst, proto: inet.TCP, flags: flags}
		}
		udp := func(src, dst netip.AddrPort) datagram { return datagram{src: src, dst: dst, proto: inet.UDP} }
		echo := func(src, dst netip.Addr, kind byte, id uint16) datagram {
			return datagram{src: at(src, id), dst: at(dst, id), proto: f.icmp, icmp: kind}
		}
		failure := func(src, dst netip.Addr, about datagram) datagram {
			return datagram{src: at(src, 0), dst: at(dst, 0), proto: f.icmp, icmp: f.unreachable, quoted: quote(about)}
		}
		for name, steps := range map[string][]step{
			"TCP is judged by what opens a connection": {
				{"the client opens one", tcp(at(f.client, 4000), at(f.server, 80), syn), true},
				{"the server accepts", tcp(at(f.server, 80), at(f.client, 4000), syn|ack), true},
				{"the client goes on", tcp(at(f.client, 4000), at(f.server, 80), ack), true},
				{"another port", tcp(at(f.client, 4000), at(f.server, 81), syn), false},
				{"another client", tcp(at(f.free, 4000), at(f.server, 80), syn), false},
				{"the server calls whom it likes", tcp(at(f.server, 4000), at(f.free, 80), syn), true},
				{"the client does not", tcp(at(f.client, 4000), at(f.free, 80), syn), false},
				{"nor the outside", tcp(at(f.client, 4000), at(f.outside, 80), syn), false},
				{"free pods do", tcp(at(f.free, 4000), at(f.outside, 80), syn), true},
			},
			"UDP answers pass, and only answers": {
				{"before the question", udp(at(f.server, 53), at(f.client, 4000)), true}, // the client has no ingress policy
				{"the outside answers nobody", udp(at(f.outside, 53), at(f.server, 4000)), false},
				{"the server asks the outside", udp(at(f.server, 4000), at(f.outside, 53)), true},
				{"the outside answers", udp(at(f.outside, 53), at(f.server, 4000)), true},
				{"to another port", udp(at(f.outside, 53), at(f.server, 4001)), false},
				{"from another port", udp(at(f.outside, 54), at(f.server, 4000)), false},
				{"the outside asks the client", udp(at(f.outside, 5000), at(f.client, 4000)), true},
				{"the client answers", udp(at(f.client, 4000), at(f.outside, 5000)), true},
				{"the client asks the outside", udp(at(f.client, 4000), at(f.outside, 5001)), false},
			},
			"an answer does not turn the flow round": {
				{"the client asks", udp(at(f.client, 4000), at(f.server, 53)), true},
				{"the server answers", udp(at(f.server, 53), at(f.client, 4000)), true},
				{"the client asks on", udp(at(f.client, 4000), at(f.server, 53)), true},
			},
			"SCTP is judged as UDP": {
				{"no rule has it", datagram{src: at(f.client, 4000), dst: at(f.server, 80), proto: inet.SCTP}, false},
				{"the server may send it", datagram{src: at(f.server, 80), dst: at(f.outside, 80), proto: inet.SCTP}, true},
				{"and is answered", datagram{src: at(f.outside, 80), dst: at(f.server, 80), proto: inet.SCTP}, true},
			},
			"echoes are of rules without ports": {
				{"server lets ports only", echo(f.client, f.server, f.request, 7), false},
				{"the server asks", echo(f.server, f.outside, f.request, 7), true},
				{"and is answered", echo(f.outside, f.server, f.reply, 7), true},
				{"about what it asked", echo(f.outside, f.server, f.reply, 8), false},
				{"the client may not", echo(f.client, f.outside, f.request, 7), false},
			},
			"errors pass with the flow that they are about": {
				{"about a connection of the client", failure(f.router, f.client, tcp(at(f.client, 4000), at(f.server, 80), syn)), true},
				{"the server asks", udp(at(f.server, 4000), at(f.outside, 53)), true},
				{"a router answers", failure(f.router, f.server, udp(at(f.server, 4000), at(f.outside, 53))), true},
				{"about another flow", failure(f.router, f.server, udp(at(f.server, 4001), at(f.outside, 53))), false},
				{"about somebody else's", failure(f.router, f.server, tcp(at(f.free, 4000), at(f.outside, 80), syn)), false},
				{"about nothing that can be read", datagram{src: at(f.router, 0), dst: at(f.server, 0), proto: f.icmp, icmp: f.unreachable}, false},
				{"free pods get all", failure(f.router, f.free, udp(at(f.server, 1), at(f.outside, 1))), true},
				{"the outside asks the client", udp(at(f.outside, 5000), at(f.client, 4000)), true},
				{"where nobody listens", failure(f.client, f.outside, udp(at(f.outside, 5000), at(f.client, 4000))), true},
			},
			"what cannot be read is not for isolated pods": {
				{"half a port", datagram{src: at(f.client, 4000), dst: at(f.server, 80), proto: inet.UDP, cut: 3}, false},
				{"for a free pod", datagram{src: at(f.server, 4000), dst: at(f.free, 80), proto: inet.UDP, cut: 3}, true},
				{"TCP without flags counts as opening", datagram{src: at(f.free, 4000), dst: at(f.server, 80), proto: inet.TCP, cut: 8}, false},
			},
			"another protocol needs a rule without ports": {
				{"to the server", datagram{src: at(f.client, 0), dst: at(f.server, 0), proto: 47}, false},
				{"the client to the outside", datagram{src: at(f.client, 0), dst: at(f.outside, 0), proto: 47}, false},
				{"the server to the outside", datagram{src: at(f.server, 0), dst: at(f.outside, 0), proto: 47}, true},
				{"and back", datagram{src: at(f.outside, 0), dst: at(f.server, 0), proto: 47}, true},
			},
		} {
			t.Run(f.name+" "+name, func(t *testing.T) {
				l := newLab(t)
				for _, s := range steps {
					if have := l.forward(s.packet); have != s.allowed {
						t.Errorf("%s: allowed %v, want %v", s.what, have, s.allowed)
					}
				}
			})
		}
	}
}

// TestAPolicyThatComesEndsAFlow: answers go on while they are fresh, questions
// do not.
func TestAPolicyThatComesEndsAFlow(t *testing.T) {
	l := newLab(t)
	ask := datagram{src: at(client4, 4000), dst: at(server4, 53), proto: inet.UDP}
	answer := datagram{src: at(server4, 53), dst: at(client4, 4000), proto: inet.UDP}
	if !l.forward(ask) || !l.forward(answer) {
		t.Fatal("the flow does not begin")
	}
	l.policy("server", `
podSelector: {matchLabels: {app: server}}
policyTypes: [Ingress]`)
	if l.forward(ask) {
		t.Error("the server is still asked")
	}
}

func TestFragments(t *testing.T) {
	l := newLab(t)
	denied := datagram{src: at(free4, 4000), dst: at(server4, 80), proto: inet.UDP}
	if l.forward(denied) {
		t.Error("a first fragment without a rule passes")
	}
	denied.fragment = 100
	if !l.forward(denied) {
		t.Error("later fragments, which say nothing, do not pass")
	}
	denied = datagram{src: at(free6, 4000), dst: at(server6, 80), proto: inet.UDP, extensions: []byte{44}}
	if l.forward(denied) {
		t.Error("an IPv6 first fragment without a rule passes")
	}
	denied.fragment = 100
	if !l.forward(denied) {
		t.Error("later IPv6 fragments do not pass")
	}
}

func TestHeadersOfIPv6AreFollowed(t *testing.T) {
	l := newLab(t)
	for _, chain := range [][]byte{{0}, {0, 60, 43}, {60, 44}, {0, 60, 43, 44, 60}} {
		open := datagram{src: at(client6, 4000), dst: at(server6, 80), proto: inet.TCP, flags: syn, extensions: chain}
		if !l.forward(open) {
			t.Errorf("headers %v: an allowed packet is dropped", chain)
		}
		open.src = at(free6, 4000)
		if l.forward(open) {
			t.Errorf("headers %v hide a connection", chain)
		}
	}
	long := datagram{src: at(client6, 4000), dst: at(server6, 80), proto: inet.TCP, flags: ack, extensions: []byte{60, 60, 60, 60, 60, 60, 60, 60}}
	if l.forward(long) {
		t.Error("a chain that is too long to follow passes")
	}
}

func TestNeighbourDiscoveryAlwaysPasses(t *testing.T) {
	l := newLab(t)
	for kind := byte(130); kind <= 137; kind++ {
		d := datagram{src: at(client6, 0), dst: at(router6, 0), proto: inet.ICMPv6, icmp: kind}
		if !l.localIn(d) || !l.forward(d) {
			t.Errorf("type %d is dropped", kind)
		}
	}
}

func TestOwnNode(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			l := newLab(t)
			node := f.router
			for what, c := range map[string]struct {
				have, want bool
			}{
				"the node reaches its pods": {
					l.localOut(datagram{src: at(node, 4000), dst: at(f.server, 9999), proto: inet.TCP, flags: syn}), true},
				"a pod that may send nothing does not reach its node": {
					l.localIn(datagram{src: at(f.client, 4000), dst: at(node, 6443), proto: inet.TCP, flags: syn}), false},
				"a pod that may send all does": {
					l.localIn(datagram{src: at(f.server, 4000), dst: at(node, 6443), proto: inet.TCP, flags: syn}), true},
				"the node's question is answered": {
					l.localOut(datagram{src: at(node, 4001), dst: at(f.client, 53), proto: inet.UDP}) &&
						l.localIn(datagram{src: at(f.client, 53), dst: at(node, 4001), proto: inet.UDP}), true},
				"and that does not turn round": {
					l.localIn(datagram{src: at(f.client, 53), dst: at(node, 4002), proto: inet.UDP}), false},
			} {
				if c.have != c.want {
					t.Errorf("%s: %v", what, c.have)
				}
			}
		})
	}
}

func TestDropsAreCounted(t *testing.T) {
	l := newLab(t)
	for range 3 {
		l.forward(datagram{src: at(free4, 1), dst: at(server4, 80), proto: inet.TCP, flags: syn})
	}
	for range 2 {
		l.forward(datagram{src: at(client4, 1), dst: at(outside4, 80), proto: inet.TCP, flags: syn})
	}
	l.forward(datagram{src: at(free4, 1), dst: at(server4, 80), proto: inet.UDP, cut: 2})
	have, err := l.drops()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Drops{Egress: 2, Ingress: 3, Malformed: 1}); have != want {
		t.Errorf("%+v, want %+v", have, want)
	}
}
