package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// village is a small world: x/a, x/b, y/a and z/b, all on n0, that have their
// name as label "pod" and port 80 as "web"; cluster DNS on n1.
func village() World {
	w := World{
		Namespaces: map[string]map[string]string{},
		Nodes:      map[string][]netip.Addr{"n0": {netip.MustParseAddr("172.30.0.10")}, "n1": {netip.MustParseAddr("172.30.0.11")}},
	}
	for _, ns := range []string{"x", "y", "z", "kube-system"} {
		w.Namespaces[ns] = map[string]string{"kubernetes.io/metadata.name": ns}
	}
	for i, name := range []string{"x/a", "x/b", "y/a", "z/b"} {
		ns, pod, _ := strings.Cut(name, "/")
		w.Pods = append(w.Pods, Pod{
			Name: types.NamespacedName{Namespace: ns, Name: pod}, Labels: map[string]string{"pod": pod}, Node: "n0",
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+1))},
			Ports: []Port{{"web", inet.TCP, 80}, {"dns", inet.UDP, 5353}},
		})
	}
	tcp, udp, port, dns, dnsTCP := corev1.ProtocolTCP, corev1.ProtocolUDP, int32(53), "dns", "dns-tcp"
	w.Pods = append(w.Pods, dnsOf(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns"},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"172.30.0.11"}}},
		Ports:      []discoveryv1.EndpointPort{{Name: &dns, Protocol: &udp, Port: &port}, {Name: &dnsTCP, Protocol: &tcp, Port: &port}},
	}))
	return w
}

// packetFrom reads "x/a > y/a tcp/80", "x/a6 > 192.0.2.1 udp/53", "n0 > ...".
func packetFrom(t *testing.T, w World, text string) Packet {
	t.Helper()
	f := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '>' })
	addr := func(s string) netip.Addr {
		if nodes, ok := w.Nodes[s]; ok {
			return nodes[0]
		}
		name, six := strings.CutSuffix(s, "6")
		for _, p := range w.Pods {
			if p.Name.String() == name && six {
				return p.Addrs[1]
			}
			if p.Name.String() == s {
				return p.Addrs[0]
			}
		}
		return netip.MustParseAddr(s)
	}
	p := Packet{Src: addr(f[0]), Dst: addr(f[1])}
	proto, port, _ := strings.Cut(f[2], "/")
	p.Protocol = map[string]inet.Protocol{"tcp": inet.TCP, "udp": inet.UDP, "sctp": inet.SCTP, "icmp": inet.ICMP}[proto]
	if port != "" {
		if _, err := fmt.Sscan(port, &p.Port); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// TestSemantics is what upstream's documentation and end-to-end tests say, as
// examples, of the objects read one by one and of the maps.
func TestSemantics(t *testing.T) {
	for name, c := range map[string]struct {
		policies string // in namespace x
		allowed  string
		denied   string
	}{
		"without a policy all is allowed": {"",
			"x/a > y/a tcp/80; y/a > x/a udp/1; 192.0.2.1 > x/a tcp/80", ""},
		"a policy without rules denies all ways in, and none out": {
			"{podSelector: {}}",
			"x/a > y/a tcp/80; y/a > z/b tcp/80", "y/a > x/a tcp/80; x/b > x/a tcp/80; 192.0.2.1 > x/a tcp/80; y/a > x/a icmp"},
		"policyTypes left out: egress only where it has rules": {
			"{podSelector: {}, ingress: [{}], egress: [{ports: [{port: 80}]}]}",
			"y/a > x/a tcp/1; x/a > y/a tcp/80", "x/a > y/a tcp/81"},
		"an egress policy leaves the ways in alone": {
			"{podSelector: {}, policyTypes: [Egress]}",
			"y/a > x/a tcp/80", "x/a > y/a tcp/80; x/a > 192.0.2.1 tcp/443; x/a > n0 tcp/6443; x/a > n1 udp/53"},
		"an empty rule allows all": {
			"{podSelector: {}, ingress: [{}]}",
			"y/a > x/a tcp/80; 192.0.2.1 > x/a sctp/1; y/a > x/a icmp", ""},
		"policies add up": {
			"{podSelector: {}}; {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}]}]}",
			"x/b > x/a tcp/80", "y/a > x/a tcp/80; x/a > x/b tcp/80"},
		"a podSelector alone is of the policy's namespace": {
			"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}",
			"x/b > x/a tcp/80", "z/b > x/a tcp/80; y/a > x/a tcp/80"},
		"a namespaceSelector alone is all its pods": {
			`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}]}]}`,
			"y/a > x/a tcp/80", "z/b > x/a tcp/80; x/b > x/a tcp/80; 192.0.2.1 > x/a tcp/80"},
		"an empty namespaceSelector is all pods, and nobody else": {
			"{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}",
			"y/a > x/a tcp/80; x/b > x/a tcp/80", "192.0.2.1 > x/a tcp/80; n1 > x/a tcp/80"},
		"both in one peer must match": {
			`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [x]}]}, podSelector: {matchLabels: {pod: b}}}]}]}`,
			"z/b > x/a tcp/80", "y/a > x/a tcp/80; x/b > x/a tcp/80"},
		"both in two peers: one must match": {
			`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}, {podSelector: {matchLabels: {pod: b}}}]}]}`,
			"y/a > x/a tcp/80; x/b > x/a tcp/80", "z/b > x/a tcp/80"},
		"ports are of their protocol, which is TCP": {
			"{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}, {protocol: SCTP}]}]}",
			"y/a > x/a tcp/80; y/a > x/a udp/53; y/a > x/a sctp/7", "y/a > x/a udp/80; y/a > x/a tcp/53; y/a > x/a icmp"},
		"SCTP is no TCP": {
			"{podSelector: {}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}",
			"y/a > x/a sctp/80", "y/a > x/a tcp/80; y/a > x/a sctp/81"},
		"a range has both its ends": {
			"{podSelector: {}, ingress: [{ports: [{port: 1000, endPort: 2047}]}]}",
			"y/a > x/a tcp/1000; y/a > x/a tcp/1024; y/a > x/a tcp/2047", "y/a > x/a tcp/999; y/a > x/a tcp/2048; y/a > x/a udp/1500"},
		"a named port is the called pod's, by its protocol": {
			"{podSelector: {}, ingress: [{ports: [{port: web}, {port: dns, protocol: UDP}]}]}",
			"y/a > x/a tcp/80; y/a > x/a udp/5353", "y/a > x/a udp/80; y/a > x/a tcp/5353; y/a > x/a tcp/81"},
		"a named port that nobody has allows nothing": {
			"{podSelector: {}, ingress: [{ports: [{port: no-such}]}]}",
			"", "y/a > x/a tcp/80"},
		"a named port on the way out is the destination's": {
			"{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}",
			"x/a > y/a tcp/80; x/a > x/b tcp/80", "x/a > y/a tcp/81; x/a > 192.0.2.1 tcp/80"},
		"and so of pods in a block": {
			"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.0.0/29, except: [10.244.0.4/32]}}], ports: [{port: web}]}]}",
			"x/a > y/a tcp/80", "x/a > z/b tcp/80; x/a > 10.244.0.7 tcp/80; x/a6 > y/a6 tcp/80"},
		"a block is of its family, without its exceptions": {
			"{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/24, 10.244.0.3/32]}}]}], egress: [{to: [{ipBlock: {cidr: '::/0'}}]}]}",
			"198.51.100.1 > x/a tcp/80; z/b > x/a tcp/80; x/a6 > y/a6 tcp/80; x/a6 > 2001:db8::1 tcp/80",
			"192.0.2.7 > x/a tcp/80; y/a > x/a tcp/80; z/b6 > x/a6 tcp/80; x/a > y/a tcp/80; x/a > 192.0.2.1 tcp/80"},
		"what one block excepts another may allow": {
			"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.244.0.0/28]}}, {ipBlock: {cidr: 10.244.0.3/32}}]}]}",
			"y/a > x/a tcp/80; 10.244.0.16 > x/a tcp/80", "z/b > x/a tcp/80"},
		"an exception takes nothing from a shorter block that begins with it": {
			"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.244.0.0/28]}}], ports: [{port: 80}]}, {from: [{ipBlock: {cidr: 10.244.0.0/16}}], ports: [{port: 81}]}]}",
			"10.244.9.9 > x/a tcp/80; 10.244.9.9 > x/a tcp/81; y/a > x/a tcp/81", "y/a > x/a tcp/80"},
		"a pod's own node always reaches it, others are judged": {
			"{podSelector: {}}",
			"n0 > x/a tcp/80", "n1 > x/a tcp/80"},
		"a pod reaches itself": {
			"{podSelector: {}, policyTypes: [Ingress, Egress]}",
			"x/a > x/a tcp/80", "x/a > x/b tcp/80"},
		"cluster DNS is as pods of kube-dns, on its ports": {
			"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]}]}",
			"x/a > n1 udp/53; x/a > n1 tcp/53", "x/a > n1 tcp/6443; x/a > n0 udp/53"},
		"and by namespace, and by the port's name": {
			"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}], ports: [{port: dns, protocol: UDP}]}]}",
			"x/a > n1 udp/53", "x/a > n1 tcp/53"},
		"the sender's side denies what the receiver's allows": {
			"{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: a}}}]}]}; {podSelector: {matchLabels: {pod: b}}, ingress: [{}]}",
			"y/a > x/b tcp/80", "x/a > x/b tcp/80"},
	} {
		t.Run(name, func(t *testing.T) {
			w := village()
			for i, spec := range strings.Split(c.policies, "; ") {
				if spec == "" {
					continue
				}
				p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: fmt.Sprintf("p%d", i)}}
				if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
					t.Fatal(err)
				}
				w.Policies = append(w.Policies, p)
			}
			maps := map[string]*twin{}
			for node := range w.Nodes {
				m := newModel(node)
				for _, p := range w.Policies {
					m.setPolicy(newPolicy(p))
				}
				for _, p := range w.Pods {
					m.setPod(p)
				}
				for name, set := range w.Namespaces {
					m.setNamespace(name, set)
				}
				maps[node] = newTwin()
				maps[node].apply(m.commit())
			}
			for want, packets := range map[bool]string{true: c.allowed, false: c.denied} {
				for _, text := range strings.Split(packets, "; ") {
					if text == "" {
						continue
					}
					p := packetFrom(t, w, text)
					e := Explain(w, p)
					if e.Allowed != want {
						t.Errorf("%s: objects say %+v", text, e)
					}
					// What a pod's own node or it itself sends passes no hook
					// that judges.
					if e.Exempt == "" && (maps["n0"].forwards(p) && maps["n1"].forwards(p)) != want {
						t.Errorf("%s: maps say %v", text, !want)
					}
				}
			}
		})
	}
}

func TestExplainNamesWhatDecides(t *testing.T) {
	w := village()
	for name, spec := range map[string]string{
		"deny":  "{podSelector: {}}",
		"allow": "{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 81}]}, {from: [{namespaceSelector: {}}]}]}",
		"other": "{podSelector: {matchLabels: {pod: b}}}",
	} {
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}}
		if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
			t.Fatal(err)
		}
		w.Policies = append(w.Policies, p)
	}
	e := Explain(w, packetFrom(t, w, "y/a > x/a tcp/80"))
	if !e.Allowed || e.Egress == nil || !e.Egress.Allowed || len(e.Egress.Policies) != 0 {
		t.Errorf("%+v, egress %+v", e, e.Egress)
	}
	allow := types.NamespacedName{Namespace: "x", Name: "allow"}
	if want := []RuleRef{{allow, 1}}; !reflect.DeepEqual(e.Ingress.AllowedBy, want) || len(e.Ingress.Policies) != 2 {
		t.Errorf("ingress %+v, want it allowed by %v", e.Ingress, want)
	}
	if e := Explain(w, packetFrom(t, w, "n0 > x/a tcp/80")); e.Exempt != ExemptNode || e.Ingress != nil {
		t.Errorf("%+v", e)
	}
}

func TestPodsAreReadAsPoliciesSeeThem(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	object := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "a", UID: "u", Labels: map[string]string{"k": "v"}},
			Spec: corev1.PodSpec{
				NodeName:   "n0",
				Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80}, {ContainerPort: 81}}}},
			},
			Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.244.0.1"}, {IP: "fd00::1"}}},
		}
		change(p)
		return p
	}
	want := Pod{
		Name: types.NamespacedName{Namespace: "x", Name: "a"}, UIDs: []types.UID{"u"}, Labels: map[string]string{"k": "v"}, Node: "n0",
		Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("fd00::1")},
		Ports: []Port{{"web", inet.TCP, 80}},
	}
	if have := podOf(object(func(*corev1.Pod) {})); !reflect.DeepEqual(*have, want) {
		t.Errorf("%+v, want %+v", have, want)
	}
	for what, change := range map[string]func(*corev1.Pod){
		"on the host's network": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"ended well":            func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded },
		"ended badly":           func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
	} {
		if have := podOf(object(change)); have != nil {
			t.Errorf("%s: %+v", what, have)
		}
	}
	have := podOf(object(func(p *corev1.Pod) {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "static"}
		p.Spec.InitContainers = []corev1.Container{
			{RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "proxy", ContainerPort: 15001, Protocol: corev1.ProtocolTCP}}},
			{Ports: []corev1.ContainerPort{{Name: "setup", ContainerPort: 1}}},
		}
	}))
	if len(have.UIDs) != 2 || have.UIDs[1] != "static" {
		t.Errorf("a mirror's UIDs: %v", have.UIDs)
	}
	if len(have.Ports) != 2 || have.Ports[1].Name != "proxy" {
		t.Errorf("ports of a sidecar, and of no other init container: %v", have.Ports)
	}
}

// TestChangesWriteFewEntries holds what policy.h promises.
func TestChangesWriteFewEntries(t *testing.T) {
	m, w := newModel(nodeNames[0]), newTwin()
	for i := range 10 {
		m.setNamespace(fmt.Sprintf("ns-%d", i), map[string]string{"name": fmt.Sprintf("ns-%d", i)})
	}
	for i := range manyPods {
		m.setPod(manyPod(i))
	}
	for i := range manyPolicies {
		m.setPolicy(newPolicy(manyPolicy(i)))
	}
	w.apply(m.commit())
	t.Logf("%d rules, %d groups, %d blocks, %d peers, %d pods", len(w.rules), len(w.groups), len(w.blocks), len(w.peers), len(w.pods))
	writes := func(what string, most int, change func()) {
		t.Helper()
		before := w.writes
		change()
		w.apply(m.commit())
		if n := w.writes - before; n == 0 || n > most {
			t.Errorf("%s: %d entries written, want 1 to %d", what, n, most)
		}
	}
	other := manyPod(1510)
	other.Name.Name, other.Addrs = "another", []netip.Addr{netip.MustParseAddr("10.250.0.1")}
	writes("a new pod of another node", 1, func() { m.setPod(other) })
	other.Labels = map[string]string{"app": "app-530"}
	writes("its label", 1, func() { m.setPod(other) })
	writes("it is gone", 1, func() { m.deletePod(other.Name) })
	own := manyPod(510)
	own.Name.Name, own.Addrs = "another", other.Addrs
	writes("a new pod of this node", 2, func() { m.setPod(own) })
	changed := manyPolicy(500)
	changed.Spec.Ingress[0].Ports = append(changed.Spec.Ingress[0].Ports, networkingv1.NetworkPolicyPort{Port: changed.Spec.Egress[0].Ports[0].Port})
	writes("another port of a policy", 6, func() { m.setPolicy(newPolicy(changed)) })
	unused := manyPod(511)
	unused.Labels = map[string]string{"app": "app-511", "pod-template-hash": "another"}
	before := w.writes
	m.setPod(unused)
	w.apply(m.commit())
	if w.writes != before {
		t.Errorf("a label that no policy names: %d entries written", w.writes-before)
	}
}
