package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/dataplane/internal/apitest"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

var listen = netip.MustParseAddrPort("172.30.0.10:53")

// startDNS runs cluster DNS against an API server until the test ends.
func startDNS(t *testing.T, api *apitest.Server, upstreams ...string) {
	t.Helper()
	startDNSWith(t, Config{
		Listen:     []netip.AddrPort{listen},
		RESTConfig: api.Config,
		ServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
		Upstreams:  upstreams,
	})
}

func startDNSWith(t *testing.T, cfg Config) {
	t.Helper()
	cfg.ClusterDomain = "cluster.local"
	if cfg.FilesDir == "" {
		cfg.FilesDir = t.TempDir()
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// ask returns the answers' values, sorted, or the response code's name.
func ask(network, name string, kind uint16) (string, error) {
	return askFor(network, name, kind, 500*time.Millisecond)
}

func askFor(network, name string, kind uint16, timeout time.Duration) (string, error) {
	return askAt(listen, network, name, kind, timeout)
}

func askAt(at netip.AddrPort, network, name string, kind uint16, timeout time.Duration) (string, error) {
	c := &mdns.Client{Net: network, Timeout: timeout}
	m := new(mdns.Msg)
	m.SetQuestion(mdns.Fqdn(name), kind)
	r, _, err := c.Exchange(m, at.String())
	if err != nil {
		return "", err
	}
	if r.Rcode != mdns.RcodeSuccess {
		return mdns.RcodeToString[r.Rcode], nil
	}
	var out []string
	for _, rr := range r.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return strings.Join(out, ", "), nil
}

// eventually asks until the answer is as wanted.
func eventually(t *testing.T, network, name string, kind uint16, want string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		got, err := ask(network, name, kind)
		if err == nil && got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s %s %s: got %q, %v; want %q", network, name, mdns.TypeToString[kind], got, err, want)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestClusterDNS(t *testing.T) {
	sandbox.Root(t)
	sandbox.Address(t, "lo", listen.Addr().String()+"/32")
	api := apitest.Start(t)
	started := time.Now()
	startDNS(t, api)
	eventually(t, "udp", "kubernetes.default.svc.cluster.local", mdns.TypeA, "10.96.0.1")
	t.Logf("first answer %s after start", time.Since(started))
	eventually(t, "udp", "kube-dns.kube-system.svc.cluster.local", mdns.TypeA, "10.96.0.10")
	t.Logf("kube-dns by name %s after start", time.Since(started))

	t.Run("objects are kubeadm's", func(t *testing.T) {
		svc, err := api.Client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(svc.Spec.Selector) != 0 || svc.Labels["k8s-app"] != "kube-dns" || len(svc.Spec.Ports) != 3 {
			t.Errorf("Service: %+v", svc)
		}
		// The EndpointSlice is made after the Service.
		eventually(t, "udp", "_dns._udp.kube-dns.kube-system.svc.cluster.local", mdns.TypeSRV, "0 100 53 kube-dns.kube-system.svc.cluster.local.")
		var slice *discoveryv1.EndpointSliceList
		for range 100 {
			slice, err = api.Client.DiscoveryV1().EndpointSlices("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kube-dns"})
			if err != nil || len(slice.Items) > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil || len(slice.Items) != 1 || slice.Items[0].Endpoints[0].Addresses[0] != listen.Addr().String() {
			t.Errorf("EndpointSlices: %+v, %v", slice, err)
		}
	})

	t.Run("record kinds", func(t *testing.T) {
		create(t, api)
		for _, q := range []struct {
			name string
			kind uint16
			want string
		}{
			{"web.shop.svc.cluster.local", mdns.TypeA, "10.96.7.7"},
			{"_http._tcp.web.shop.svc.cluster.local", mdns.TypeSRV, "0 100 80 web.shop.svc.cluster.local."},
			{"7.7.96.10.in-addr.arpa", mdns.TypePTR, "web.shop.svc.cluster.local."},
			{"db.shop.svc.cluster.local", mdns.TypeA, "10.244.0.7, 10.244.0.8"},
			{"db-0.db.shop.svc.cluster.local", mdns.TypeA, "10.244.0.7"},
			{"10-244-0-8.db.shop.svc.cluster.local", mdns.TypeA, "10.244.0.8"},
			{"_sql._tcp.db.shop.svc.cluster.local", mdns.TypeSRV, "0 50 5432 10-244-0-8.db.shop.svc.cluster.local., 0 50 5432 db-0.db.shop.svc.cluster.local."},
			{"7.0.244.10.in-addr.arpa", mdns.TypePTR, "db-0.db.shop.svc.cluster.local."},
			{"10-244-0-99.shop.pod.cluster.local", mdns.TypeA, "10.244.0.99"},
			{"out.shop.svc.cluster.local", mdns.TypeCNAME, "example.com."},
			{"web.shop.svc.cluster.local", mdns.TypeAAAA, ""},
			{"nothing.shop.svc.cluster.local", mdns.TypeA, "NXDOMAIN"},
		} {
			for _, network := range []string{"udp", "tcp"} {
				eventually(t, network, q.name, q.kind, q.want)
			}
		}
	})

	t.Run("without upstreams names outside fail at once", func(t *testing.T) {
		start := time.Now()
		for _, name := range []string{"example.com", "4.3.2.1.in-addr.arpa"} {
			got, err := ask("udp", name, mdns.TypeA)
			if err != nil || got != "NXDOMAIN" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		if d := time.Since(start); d > 200*time.Millisecond {
			t.Errorf("failed after %s", d)
		}
	})

	t.Run("the ConfigMap is in force at once", func(t *testing.T) {
		set := func(change func(string) string) {
			t.Helper()
			cm, err := api.Client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "coredns", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			cm.Data["Corefile"] = change(cm.Data["Corefile"])
			if _, err := api.Client.CoreV1().ConfigMaps("kube-system").Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		// Somebody asks all the while.
		stop, asked := make(chan struct{}), make(chan error, 1)
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					asked <- nil
					return
				default:
				}
				if got, err := ask("udp", "kubernetes.default.svc.cluster.local", mdns.TypeA); err != nil || got != "10.96.0.1" {
					asked <- fmt.Errorf("question %d: %q, %w", n, got, err)
					return
				}
			}
		}()
		start := time.Now()
		set(func(c string) string {
			return strings.Replace(c, "    loadbalance\n", "    loadbalance\n    hosts {\n       192.0.2.1 printer.example.com\n       fallthrough\n    }\n    template IN TXT q.example.com {\n       answer \"{{ .Name }} 60 IN TXT \\\"a b # c\\\"\"\n    }\n", 1)
		})
		eventually(t, "udp", "printer.example.com", mdns.TypeA, "192.0.2.1")
		t.Logf("new Corefile in force after %s", time.Since(start))
		eventually(t, "udp", "q.example.com", mdns.TypeTXT, `"a b # c"`)

		set(func(string) string { return ".:53 {\n    nonsense\n}\n" })
		deadline := time.Now().Add(time.Minute)
		for {
			events, err := api.Client.CoreV1().Events("kube-system").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=coredns"})
			if err != nil {
				t.Fatal(err)
			}
			if len(events.Items) > 0 {
				t.Logf("event: %s", events.Items[0].Message)
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no event about the Corefile that does not work")
			}
			time.Sleep(10 * time.Millisecond)
		}
		eventually(t, "udp", "printer.example.com", mdns.TypeA, "192.0.2.1")
		close(stop)
		if err := <-asked; err != nil {
			t.Errorf("while the Corefile changed: %v", err)
		}
	})
}

// create makes a Service of each kind.
func create(t *testing.T, api *apitest.Server) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := api.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{})
	must(err)
	services := api.Client.CoreV1().Services("shop")
	_, err = services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.7.7", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}, metav1.CreateOptions{})
	must(err)
	_, err = services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec:       corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "sql", Port: 5432}}},
	}, metav1.CreateOptions{})
	must(err)
	_, err = services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "out"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"},
	}, metav1.CreateOptions{})
	must(err)
	host := "db-0"
	_, err = api.Client.DiscoveryV1().EndpointSlices("shop").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.7"}, Hostname: &host}, {Addresses: []string{"10.244.0.8"}}},
		Ports:       []discoveryv1.EndpointPort{slicePort("sql", corev1.ProtocolTCP, 5432)},
	}, metav1.CreateOptions{})
	must(err)
}
