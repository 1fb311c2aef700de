package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

// guarded is the village where b of namespace x is let in on port 80 only.
func guarded(t *testing.T) World {
	t.Helper()
	w := village()
	for name, spec := range map[string]string{
		"deny": "{podSelector: {}, policyTypes: [Ingress]}",
		"b":    "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: web}]}]}",
	} {
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}}
		if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
			t.Fatal(err)
		}
		w.Policies = append(w.Policies, p)
	}
	return w
}

func TestTraceReadsPinnedPrograms(t *testing.T) {
	sandbox.Root(t)
	pins := sandbox.BPFFS(t)
	w := guarded(t)
	if maps, err := Inspect(pins); err != nil || maps.Attached {
		t.Fatalf("nothing is pinned: attached %t, %v", maps.Attached, err)
	}
	k, err := loadKernel(pins)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	// Numbers differ from those of a plan that is made afresh.
	m := modelOf(World{Policies: w.Policies[:1], Pods: w.Pods[2:], Namespaces: w.Namespaces}, "n0")
	k.table.apply(m.commit())
	for _, p := range modelOf(w, "n0").policies {
		m.setPolicy(p)
	}
	for _, p := range w.Pods[:2] {
		m.setPod(p)
	}
	if f := k.table.apply(m.commit()); f.any() {
		t.Fatalf("%+v", f)
	}
	if err := k.attach(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := k.detach(); err != nil {
			t.Error(err)
		}
	}()
	good, bad := packetFrom(t, w, "x/b > x/a tcp/80"), packetFrom(t, w, "y/a > x/a tcp/80")
	look := func(p Packet) MapTrace {
		t.Helper()
		maps, err := Inspect(pins)
		if err != nil {
			t.Fatal(err)
		}
		return TraceMaps(w, p, Ingress, "n0", maps)
	}
	expect := func(what string, got MapTrace, allowed bool, difference string) {
		t.Helper()
		text := strings.Join(got.Differences, "; ")
		if got.Allowed != allowed || (difference == "") != (text == "") || !strings.Contains(text, difference) {
			t.Errorf("%s: allowed %t, differences %q; want %t, %q", what, got.Allowed, text, allowed, difference)
		}
	}
	expect("what a rule allows", look(good), true, "")
	expect("what none allows", look(bad), false, "")
	expect("its egress", TraceMaps(w, good, Egress, "n0", &Snapshot{}), true, "")

	a, b := rawAddr(good.Dst), claim{addr: good.Src}.raw()
	restore := func(m *ebpf.Map, key, value any) {
		t.Helper()
		if err := m.Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
	var peer bpfPolicyPeer
	take(t, k.table.maps.PolicyPeers, &b, &peer)
	expect("a peer is gone", look(good), false, "policy_peers lacks "+good.Src.String())
	restore(k.table.maps.PolicyPeers, &b, &peer)

	var pod bpfPolicyPod
	take(t, k.table.maps.PolicyPods, &a, &pod)
	expect("the pod is gone", look(bad), true, "policy_pods lacks "+bad.Dst.String())
	restore(k.table.maps.PolicyPods, &a, &pod)

	var group bpfPolicyGroup
	take(t, k.table.maps.PolicyGroups, &pod.Ingress, &group)
	expect("its group is gone", look(good), false, fmt.Sprintf("policy_groups lacks group %d", pod.Ingress))
	restore(k.table.maps.PolicyGroups, &pod.Ingress, &group)

	var rule bpfPolicyRule
	var kind bpfPolicyKind
	if !k.table.maps.PolicyRules.Iterate().Next(&rule, &kind) {
		t.Fatal("no rule in the map")
	}
	take(t, k.table.maps.PolicyRules, &rule, &kind)
	expect("the rule is gone", look(good), false, "policy_rules lacks")
	restore(k.table.maps.PolicyRules, &rule, &kind)
	expect("all is back", look(good), true, "")

	w.Policies = nil
	expect("the policies are gone", look(good), true, "policy_pods has "+good.Dst.String())
	w = guarded(t)
	if err := k.detach(); err != nil {
		t.Fatal(err)
	}
	expect("the programs are gone", look(bad), true, "not attached")
}

// take removes an entry and keeps its value.
func take(t *testing.T, m *ebpf.Map, key, value any) {
	t.Helper()
	if err := m.Lookup(key, value); err != nil {
		t.Fatal(err)
	}
	if err := m.Delete(key); err != nil {
		t.Fatal(err)
	}
}

func TestMetricsTellDropsAndFill(t *testing.T) {
	b := newBench(t)
	w := guarded(t)
	m := modelOf(w, "n0")
	b.apply(m.commit())
	l := &Loader{model: m, kernel: b.kernel, listed: true, enforcing: true}
	for reason, n := range map[bpfPolicyDrop]uint64{bpfPolicyDropPOLICY_DROP_EGRESS: 3, bpfPolicyDropPOLICY_DROP_INGRESS: 5} {
		perCPU := make([]uint64, ebpf.MustPossibleCPU())
		perCPU[0] = n
		if err := b.objects.PolicyDrops.Put(reason, perCPU); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 3 {
		flow, seen := bpfPolicyFlow{SportBe: uint16(n), Proto: uint8(inet.UDP)}, bpfPolicySeen{AtNs: 1}
		if err := b.objects.PolicyFlows.Put(&flow, &seen); err != nil {
			t.Fatal(err)
		}
	}
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(l.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]float64{}
	for _, f := range families {
		for _, s := range f.Metric {
			label := ""
			for _, pair := range s.Label {
				label = "/" + pair.GetValue()
			}
			have[f.GetName()+label] = s.GetCounter().GetValue() + s.GetGauge().GetValue()
		}
	}
	rules := 0
	var rule bpfPolicyRule
	var kind bpfPolicyKind
	for all := b.table.maps.PolicyRules.Iterate(); all.Next(&rule, &kind); {
		rules++
	}
	for name, want := range map[string]float64{
		"skiff_policies": 2, "skiff_policies_enforced": 1, "skiff_policies_isolated_addresses": 4,
		"skiff_policies_dropped_packets_total/egress": 3, "skiff_policies_dropped_packets_total/ingress": 5,
		"skiff_policies_dropped_packets_total/malformed": 0,
		"skiff_policies_map_entries/policy_pods":         4, "skiff_policies_map_entries/policy_rules": float64(rules),
		"skiff_policies_map_entries/policy_flows":    3,
		"skiff_policies_map_max_entries/policy_pods": float64(b.table.maps.PolicyPods.MaxEntries()),
	} {
		if got, ok := have[name]; !ok || got != want {
			t.Errorf("%s: have %v (%t), want %v", name, got, ok, want)
		}
	}
	if rules == 0 {
		t.Error("no rules in the map")
	}
}

func TestPodAt(t *testing.T) {
	w := village()
	if name, node := w.PodAt(netip.MustParseAddr("fd00::1")); name.String() != "x/a" || node != "n0" {
		t.Errorf("%s on %q", name, node)
	}
	if name, _ := w.PodAt(netip.MustParseAddr("172.30.0.11")); name.Name != "" {
		t.Errorf("cluster DNS is a pod: %s", name)
	}
}
