package dns

import (
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/dataplane/internal/apitest"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

var listen6 = netip.MustParseAddrPort("[fd00:172:30::10]:53")

// TestRecordsOfADualStackCluster asks both addresses over both transports for
// records of both families.
func TestRecordsOfADualStackCluster(t *testing.T) {
	sandbox.Root(t)
	sandbox.Address(t, "lo", listen.Addr().String()+"/32")
	sandbox.Address(t, "lo", listen6.Addr().String()+"/128")
	api := apitest.Start(t, "-service-cidr", "10.96.0.0/16,fd00:10:96::/112")
	startDNSWith(t, Config{
		Listen: []netip.AddrPort{listen, listen6}, RESTConfig: api.Config,
		ServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")},
	})
	makeDualStack(t, api)
	for _, q := range []struct {
		name string
		kind uint16
		want string
	}{
		{"kube-dns.kube-system.svc.cluster.local", mdns.TypeA, "10.96.0.10"},
		{"kube-dns.kube-system.svc.cluster.local", mdns.TypeAAAA, "fd00:10:96::a"},
		{"both.shop.svc.cluster.local", mdns.TypeA, "10.96.7.7"},
		{"both.shop.svc.cluster.local", mdns.TypeAAAA, "fd00:10:96::77"},
		{"six.shop.svc.cluster.local", mdns.TypeA, ""},
		{"six.shop.svc.cluster.local", mdns.TypeAAAA, "fd00:10:96::66"},
		{"_http._tcp.six.shop.svc.cluster.local", mdns.TypeSRV, "0 100 80 six.shop.svc.cluster.local."},
		{mustReverse(t, "fd00:10:96::66"), mdns.TypePTR, "six.shop.svc.cluster.local."},
		{mustReverse(t, "fd00:10:96::77"), mdns.TypePTR, "both.shop.svc.cluster.local."},
		{mustReverse(t, "10.96.7.7"), mdns.TypePTR, "both.shop.svc.cluster.local."},
		{"db.shop.svc.cluster.local", mdns.TypeA, "10.244.0.7"},
		{"db.shop.svc.cluster.local", mdns.TypeAAAA, "fd00:10:244::7"},
		{"db-0.db.shop.svc.cluster.local", mdns.TypeA, "10.244.0.7"},
		{"db-0.db.shop.svc.cluster.local", mdns.TypeAAAA, "fd00:10:244::7"},
		{mustReverse(t, "fd00:10:244::7"), mdns.TypePTR, "db-0.db.shop.svc.cluster.local."},
		{"fd00-10-244--9.shop.pod.cluster.local", mdns.TypeAAAA, "fd00:10:244::9"},
		{mustReverse(t, "fd00:10:96::99"), mdns.TypePTR, "NXDOMAIN"},
	} {
		for _, at := range []netip.AddrPort{listen, listen6} {
			for _, network := range []string{"udp", "tcp"} {
				eventuallyAt(t, at, network, q.name, q.kind, q.want)
			}
		}
	}
	slices, err := api.Client.DiscoveryV1().EndpointSlices("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kube-dns"})
	if err != nil {
		t.Fatal(err)
	}
	families := map[discoveryv1.AddressType]string{}
	for _, s := range slices.Items {
		families[s.AddressType] = s.Endpoints[0].Addresses[0]
	}
	if len(slices.Items) != 2 || families[discoveryv1.AddressTypeIPv4] != listen.Addr().String() || families[discoveryv1.AddressTypeIPv6] != listen6.Addr().String() {
		t.Errorf("EndpointSlices of kube-dns: %v", families)
	}
}

func mustReverse(t *testing.T, address string) string {
	t.Helper()
	name, err := mdns.ReverseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func eventuallyAt(t *testing.T, at netip.AddrPort, network, name string, kind uint16, want string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		got, err := askAt(at, network, name, kind, 500*time.Millisecond)
		if err == nil && got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s %s at %s: %s: got %q, %v; want %q", network, name, at, mdns.TypeToString[kind], got, err, want)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// makeDualStack makes Services of two families, of the second one only, and a
// headless one.
func makeDualStack(t *testing.T, api *apitest.Server) {
	t.Helper()
	ctx := t.Context()
	if _, err := api.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	dual := corev1.IPFamilyPolicyRequireDualStack
	for _, svc := range []*corev1.Service{
		{ObjectMeta: metav1.ObjectMeta{Name: "both"}, Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.7.7", ClusterIPs: []string{"10.96.7.7", "fd00:10:96::77"}, IPFamilyPolicy: &dual,
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "six"}, Spec: corev1.ServiceSpec{
			ClusterIP: "fd00:10:96::66", IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: corev1.ServiceSpec{
			ClusterIP: "None", IPFamilyPolicy: &dual, Ports: []corev1.ServicePort{{Name: "sql", Port: 5432}}}},
	} {
		if _, err := api.Client.CoreV1().Services("shop").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	host := "db-0"
	for family, address := range map[discoveryv1.AddressType]string{discoveryv1.AddressTypeIPv4: "10.244.0.7", discoveryv1.AddressTypeIPv6: "fd00:10:244::7"} {
		_, err := api.Client.DiscoveryV1().EndpointSlices("shop").Create(ctx, &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{GenerateName: "db-", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
			AddressType: family,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address}, Hostname: &host}},
			Ports:       []discoveryv1.EndpointPort{slicePort("sql", corev1.ProtocolTCP, 5432)},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
}
