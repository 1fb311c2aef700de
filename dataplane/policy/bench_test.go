package policy

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

// The size of what changes are measured in: 1,000 policies, 1,000 pods of
// this node and 1,000 of others, in 10 namespaces with 100 apps each.
const (
	manyPolicies = 1000
	manyPods     = 2000
)

func manyPod(i int) Pod {
	app := i % 1000
	return Pod{
		Name:   types.NamespacedName{Namespace: fmt.Sprintf("ns-%d", app%10), Name: fmt.Sprintf("pod-%d", i)},
		UIDs:   []types.UID{types.UID(fmt.Sprint(i))},
		Labels: map[string]string{"app": fmt.Sprintf("app-%d", app), "pod-template-hash": fmt.Sprint(i)},
		Addrs:  []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd00::%x", i+1))},
		Node:   nodeNames[i/1000],
	}
}

// manyPolicy isolates one app: it lets in another one, all of a namespace,
// and a block, and out to cluster DNS and one app.
func manyPolicy(i int) *networkingv1.NetworkPolicy {
	app := func(n int) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app-%d", n%1000)}}
	}
	port, dns := intstr.FromInt32(80), intstr.FromInt32(53)
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%d", i%10), Name: fmt.Sprintf("policy-%d", i)}}
	p.Spec.PodSelector = *app(i)
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: app(i + 10)},
			{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": fmt.Sprintf("ns-%d", (i+1)%10)}}},
			{IPBlock: &networkingv1.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.128/25"}}},
		},
		Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
	}}
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{
		{Ports: []networkingv1.NetworkPolicyPort{{Port: &dns}}},
		{To: []networkingv1.NetworkPolicyPeer{{PodSelector: app(i + 20)}}},
	}
	return p
}

// manyModel is a node's model of that size, written.
func manyModel(b *bench) *model {
	m := newModel(nodeNames[0])
	for i := range 10 {
		m.setNamespace(fmt.Sprintf("ns-%d", i), map[string]string{"name": fmt.Sprintf("ns-%d", i)})
	}
	for i := range manyPods {
		m.setPod(manyPod(i))
	}
	for i := range manyPolicies {
		m.setPolicy(newPolicy(manyPolicy(i)))
	}
	b.apply(m.commit())
	return m
}

// BenchmarkFill is a node that begins to enforce 1,000 policies.
func BenchmarkFill(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		bench := newBench(b)
		b.StartTimer()
		manyModel(bench)
	}
}

// BenchmarkChange is one change among 1,000 policies and 2,000 pods, from the
// object to written maps.
func BenchmarkChange(b *testing.B) {
	bench := newBench(b)
	m := manyModel(bench)
	for what, change := range map[string]func(n int){
		"PolicyPort": func(n int) {
			p := manyPolicy(500)
			port := intstr.FromInt32(int32(80 + n%2))
			p.Spec.Ingress[0].Ports[0].Port = &port
			m.setPolicy(newPolicy(p))
		},
		"PolicyCreatedAndDeleted": func(n int) {
			p := manyPolicy(500)
			p.Name = "another"
			if n%2 == 0 {
				m.setPolicy(newPolicy(p))
			} else {
				m.deletePolicy(types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
			}
		},
		"PodLabel": func(n int) {
			p := manyPod(1500)
			p.Labels["app"] = fmt.Sprintf("app-%d", 500+n%2*20)
			m.setPod(p)
		},
		"PodCreatedAndDeleted": func(n int) {
			p := manyPod(510)
			p.Name.Name = "another"
			p.Addrs = []netip.Addr{netip.MustParseAddr("10.244.99.99")}
			if n%2 == 0 {
				m.setPod(p)
			} else {
				m.deletePod(p.Name)
			}
		},
		"NamespaceLabel": func(n int) {
			m.setNamespace("ns-1", map[string]string{"name": fmt.Sprintf("ns-%d", 1+n%2*100)})
		},
	} {
		b.Run(what, func(b *testing.B) {
			n, entries := 0, 0
			for b.Loop() {
				change(n)
				c := m.commit()
				entries += c.size()
				bench.apply(c)
				n++
			}
			b.ReportMetric(float64(entries)/float64(n), "entries/op")
		})
	}
}

// BenchmarkDecision is what the programs take for a packet, of the kernel's
// own measure.
func BenchmarkDecision(b *testing.B) {
	bench := newBench(b)
	manyModel(bench)
	addr := func(i int) netip.Addr { return manyPod(i).Addrs[0] }
	for _, c := range []struct {
		what   string
		packet datagram
	}{
		{"EstablishedTCP", datagram{src: at(addr(510), 4000), dst: at(addr(500), 80), proto: inet.TCP, flags: ack}},
		{"NoPolicy", datagram{src: at(outside4, 4000), dst: at(router4, 80), proto: inet.TCP, flags: syn}},
		{"AllowedByIdentity", datagram{src: at(addr(1510), 4000), dst: at(addr(500), 80), proto: inet.TCP, flags: syn}},
		{"AllowedByNamespace", datagram{src: at(addr(1501), 4000), dst: at(addr(500), 80), proto: inet.TCP, flags: syn}},
		{"AllowedByBlock", datagram{src: at(netip.MustParseAddr("192.0.2.1"), 4000), dst: at(addr(500), 80), proto: inet.TCP, flags: syn}},
		{"Denied", datagram{src: at(addr(1555), 4000), dst: at(addr(500), 80), proto: inet.TCP, flags: syn}},
	} {
		b.Run(c.what, func(b *testing.B) {
			var all []float64
			for b.Loop() {
				_, took, err := bench.objects.PolicyForward4.Benchmark(c.packet.bytes(), 10000, b.ResetTimer)
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, float64(took.Nanoseconds()))
			}
			slices.Sort(all)
			b.ReportMetric(all[len(all)/2], "ns/packet")
		})
	}
}

// BenchmarkConnect is connect and close between two pods of a node, turn by
// turn without programs, with them for free pods, and with them for a pod
// among 1,000 isolated ones.
func BenchmarkConnect(b *testing.B) {
	bench := newBench(b)
	m := manyModel(bench)
	node, client, server := newPair(b)
	p := manyPod(500)
	p.Name.Name, p.Addrs = "server", []netip.Addr{server}
	m.setPod(p)
	p = manyPod(510)
	p.Name.Name, p.Addrs, p.Node = "client", []netip.Addr{netip.MustParseAddr("10.250.0.1")}, nodeNames[1]
	m.setPod(p)
	isolate := m.commit()

	dial := func() (took time.Duration) {
		client.Do(func() error {
			runtime.LockOSThread()
			start := time.Now()
			c, err := net.Dial("tcp4", netip.AddrPortFrom(server, 80).String())
			if err != nil {
				return err
			}
			took = time.Since(start)
			_ = c.(*net.TCPConn).SetLinger(0)
			return c.Close()
		})
		return took
	}
	spent := map[string][]time.Duration{}
	const calls = 200
	for b.Loop() {
		for _, mode := range []string{"none", "free", "isolated"} {
			switch mode {
			case "free":
				node.Do(bench.attach)
			case "isolated":
				bench.apply(isolate)
			}
			for range calls {
				spent[mode] = append(spent[mode], dial())
			}
		}
		gone := &changes{podsGone: []netip.Addr{server}}
		bench.apply(gone)
		if err := bench.detach(); err != nil {
			b.Fatal(err)
		}
	}
	for mode, all := range spent {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Nanoseconds()), mode+"-p50-ns")
	}
	b.ReportMetric(float64(b.N*calls), "connections")
}

// newPair is a node with two pods of which one answers.
func newPair(t testing.TB) (node, client *sandbox.Namespace, server netip.Addr) {
	node, client = sandbox.NewNamespace(t), sandbox.NewNamespace(t)
	answers := sandbox.NewNamespace(t)
	for i, ns := range []*sandbox.Namespace{client, answers} {
		dev, addr := fmt.Sprintf("pod%d", i), fmt.Sprintf("10.250.%d", i)
		sandbox.Cable(t, node, dev, ns, "eth0")
		node.Address(dev, addr+".254/24")
		ns.Address("eth0", addr+".1/24")
		ns.Route("10.250.0.0/16", addr+".254", "eth0", 1)
	}
	var l net.Listener
	answers.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":80")
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return node, client, netip.MustParseAddr("10.250.1.1")
}
