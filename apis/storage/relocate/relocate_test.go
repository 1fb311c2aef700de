package relocate

import (
	"bytes"
	"context"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apis/storage/backup"
)

var plan = &Plan{
	Nodes: []Node{{From: "dev-worker", To: "try-worker", ProviderID: "skiff://try/try-worker", PodCIDRs: []string{"10.245.1.0/24"}}},
	Ranges: []Range{
		{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.97.0.0/16")},
		{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("172.30.1.0/24")},
		{netip.MustParsePrefix("fd00:10:96::/112"), netip.MustParsePrefix("fd00:10:97::/112")},
	},
	ServiceCIDRs: []string{"10.97.0.0/16"},
}

func TestAddressesKeepTheirPlace(t *testing.T) {
	for in, want := range map[string]string{
		"10.96.0.1": "10.97.0.1", "10.96.255.254": "10.97.255.254", "172.30.0.10": "172.30.1.10",
		"fd00:10:96::a": "fd00:10:97::a", "10.97.0.1": "10.97.0.1", "192.0.2.1": "192.0.2.1", "None": "None", "": "",
	} {
		if got := plan.address(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	// A range that ends within a byte, and one that is larger.
	r := Range{netip.MustParsePrefix("10.96.16.0/20"), netip.MustParsePrefix("10.112.0.0/16")}
	if got := translate(netip.MustParseAddr("10.96.31.7"), r).String(); got != "10.112.15.7" {
		t.Errorf("got %s", got)
	}
}

func pod(name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: "u"},
		Spec:       corev1.PodSpec{NodeName: "dev-worker"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.1.2", PodIPs: []corev1.PodIP{{IP: "10.244.1.2"}}, HostIP: "172.30.0.11",
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "c", Ready: true, RestartCount: 3}}},
	}
	change(p)
	return p
}

// world is what an etcd may hold, by key.
func world() map[string]runtime.Object {
	return map[string]runtime.Object{
		"minions/dev-worker": &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "dev-worker", UID: "n", Labels: map[string]string{corev1.LabelHostname: "dev-worker", "tier": "db"}},
			Spec:       corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24"}, ProviderID: "skiff://dev/dev-worker", Unschedulable: true},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		},
		"minions/gone":         &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gone"}},
		"pods/default/running": pod("running", func(*corev1.Pod) {}),
		"pods/default/ended":   pod("ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		"pods/default/static":  pod("static", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }),
		"pods/default/pending": pod("pending", func(p *corev1.Pod) { p.Spec.NodeName, p.Status = "", corev1.PodStatus{Phase: corev1.PodPending} }),
		"pods/default/daemon": pod("daemon", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: "In", Values: []string{"dev-worker"}}}}}}}}
		}),
		"services/specs/default/web": &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Annotations: map[string]string{loadBalancerAddresses: "172.30.0.7, 192.0.2.1"}},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7", "fd00:10:96::7"}},
		},
		"services/specs/default/headless":    &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "headless", Namespace: "default"}, Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}},
		"services/endpoints/default/web":     &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: "x"}}},
		"services/endpoints/default/own":     &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "own", Namespace: "default"}, Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "172.30.0.11", NodeName: ptr.To("dev-worker")}}}}},
		"endpointslices/default/web-x":       &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "web-x", Namespace: "default", Labels: map[string]string{discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}}},
		"endpointslices/default/kubernetes":  &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}}},
		"endpointslices/default/own":         &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "own", Namespace: "default"}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.9"}}}},
		"ipaddresses/10.96.0.7":              &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.96.0.7"}},
		"servicecidrs/kubernetes":            &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}},
		"servicecidrs/more":                  &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.200.0.0/24"}}},
		"persistentvolumes/local":            &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Spec: corev1.PersistentVolumeSpec{NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: "In", Values: []string{"dev-worker"}}}}}}}}},
		"leases/kube-node-lease/dev-worker":  &corev1.ConfigMap{},
		"configmaps/default/untouched":       &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "untouched"}, Data: map[string]string{"node": "dev-worker at 10.96.0.7"}},
		"csinodes/dev-worker":                &corev1.ConfigMap{},
		"volumeattachments/csi-x":            &corev1.ConfigMap{},
		"masterleases/172.30.0.10":           &corev1.ConfigMap{},
		"leases/default/of-an-operator-of-x": &corev1.ConfigMap{},
	}
}

// relocated runs the plan on an etcd with the objects.
func relocated(t *testing.T, p *Plan, objects map[string]runtime.Object) map[string]runtime.Object {
	t.Helper()
	out := map[string]runtime.Object{}
	edit := func(ctx context.Context, client *clientv3.Client) error {
		for key, object := range objects {
			kinds, _, err := schemeKinds(object)
			if err != nil {
				return err
			}
			object.GetObjectKind().SetGroupVersionKind(kinds)
			var value bytes.Buffer
			if err := codec.Encode(object, &value); err != nil {
				return err
			}
			if _, err := client.Put(ctx, root+key, value.String()); err != nil {
				return err
			}
		}
		if err := p.Run(ctx, client); err != nil {
			return err
		}
		all, err := client.Get(ctx, root, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, kv := range all.Kvs {
			object, _, err := codec.Decode(kv.Value, nil, nil)
			if err != nil {
				return err
			}
			out[string(kv.Key[len(root):])] = object
		}
		return nil
	}
	if err := backup.Edit(t.Context(), t.TempDir(), edit); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWhatIsSaidAboutNodesAndAddressesFollows(t *testing.T) {
	got := relocated(t, plan, world())
	var keys []string
	for key := range got {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	want := []string{
		"configmaps/default/untouched", "endpointslices/default/own", "ipaddresses/10.97.0.7", "leases/default/of-an-operator-of-x", "minions/try-worker",
		"persistentvolumes/local", "pods/default/daemon", "pods/default/ended", "pods/default/pending", "pods/default/running",
		"servicecidrs/kubernetes", "servicecidrs/more", "services/endpoints/default/own", "services/specs/default/headless", "services/specs/default/web",
	}
	if !slices.Equal(keys, want) {
		t.Fatalf("keys\n%q, want\n%q", keys, want)
	}
	check := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	n := got["minions/try-worker"].(*corev1.Node)
	check("node", []string{n.Name, string(n.UID), n.Labels[corev1.LabelHostname], n.Labels["tier"], n.Spec.PodCIDR, n.Spec.ProviderID},
		[]string{"try-worker", "n", "try-worker", "db", "10.245.1.0/24", "skiff://try/try-worker"})
	check("cordon, readiness", []any{n.Spec.Unschedulable, n.Status.Conditions[0].Status}, []any{true, corev1.ConditionFalse})
	running := got["pods/default/running"].(*corev1.Pod)
	check("pod", []any{running.Spec.NodeName, running.UID, running.Status.PodIP, len(running.Status.PodIPs), running.Status.HostIP, running.Status.Conditions[0].Status, running.Status.Conditions[1].Status, running.Status.ContainerStatuses[0].RestartCount},
		[]any{"try-worker", running.UID, "", 0, "", corev1.ConditionFalse, corev1.ConditionTrue, int32(3)})
	ended := got["pods/default/ended"].(*corev1.Pod)
	check("ended pod", []any{ended.Spec.NodeName, ended.Status.Phase, ended.Status.PodIP}, []any{"try-worker", corev1.PodSucceeded, "10.244.1.2"})
	check("pending pod", got["pods/default/pending"].(*corev1.Pod).Spec.NodeName, "")
	daemon := got["pods/default/daemon"].(*corev1.Pod)
	check("daemon's affinity", daemon.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values, []string{"try-worker"})
	web := got["services/specs/default/web"].(*corev1.Service)
	check("service", []any{web.Spec.ClusterIP, web.Spec.ClusterIPs, web.Annotations[loadBalancerAddresses]}, []any{"10.97.0.7", []string{"10.97.0.7", "fd00:10:97::7"}, "172.30.1.7, 192.0.2.1"})
	check("headless service", got["services/specs/default/headless"].(*corev1.Service).Spec.ClusterIP, "None")
	own := got["services/endpoints/default/own"].(*corev1.Endpoints).Subsets[0].Addresses[0]
	check("own endpoints", []string{own.IP, *own.NodeName}, []string{"172.30.1.11", "try-worker"})
	check("own slice", got["endpointslices/default/own"].(*discoveryv1.EndpointSlice).Endpoints[0].Addresses, []string{"192.0.2.9"})
	check("service range", got["servicecidrs/kubernetes"].(*networkingv1.ServiceCIDR).Spec.CIDRs, []string{"10.97.0.0/16"})
	check("a user's range", got["servicecidrs/more"].(*networkingv1.ServiceCIDR).Spec.CIDRs, []string{"10.200.0.0/24"})
	local := got["persistentvolumes/local"].(*corev1.PersistentVolume)
	check("local volume", local.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values, []string{"try-worker"})
	check("untouched", got["configmaps/default/untouched"].(*corev1.ConfigMap).Data["node"], "dev-worker at 10.96.0.7")
}

// TestMoreThanOnePage has more Nodes and addresses than are read at once.
func TestMoreThanOnePage(t *testing.T) {
	objects, p := map[string]runtime.Object{}, &Plan{Ranges: plan.Ranges}
	for i := range 2*pageSize + 7 {
		name := "dev-worker" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		objects["minions/"+name] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		p.Nodes = append(p.Nodes, Node{From: name, To: "try" + name[3:]})
		address := netip.AddrFrom4([4]byte{10, 96, byte(i), 9}).String()
		objects["ipaddresses/"+address] = &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: address}}
	}
	got := relocated(t, p, objects)
	if len(got) != len(objects) {
		t.Errorf("%d of %d objects", len(got), len(objects))
	}
	for key := range objects {
		if got[key] != nil {
			t.Errorf("%s is still there", key)
		}
	}
}

func schemeKinds(o runtime.Object) (schema.GroupVersionKind, bool, error) {
	kinds, unversioned, err := scheme.Scheme.ObjectKinds(o)
	if err != nil {
		return schema.GroupVersionKind{}, false, err
	}
	return kinds[0], unversioned, nil
}
