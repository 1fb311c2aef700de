package dns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/skiff-k8s/skiff/dataplane/internal/apitest"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

// setConfigMap replaces the files of cluster DNS.
func setConfigMap(t *testing.T, api *apitest.Server, data map[string]string) {
	t.Helper()
	maps := api.Client.CoreV1().ConfigMaps("kube-system")
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		cm, err := maps.Get(t.Context(), "coredns", metav1.GetOptions{})
		if err != nil {
			return err
		}
		cm.Data = data
		_, err = maps.Update(t.Context(), cm, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitEvent waits for an event about the ConfigMap with words in it.
func awaitEvent(t *testing.T, api *apitest.Server, reason, words string) {
	t.Helper()
	var seen []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		events, err := api.Client.CoreV1().Events("kube-system").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=coredns"})
		if err != nil {
			t.Fatal(err)
		}
		seen = nil
		for _, e := range events.Items {
			if e.Reason == reason && strings.Contains(e.Message, words) {
				return
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
	}
	t.Errorf("no event %s with %q; there are %q", reason, words, seen)
}

// elsewhere is a DNS server in a namespace of its own, at the other end of a
// cable: it answers every A question with one address.
func elsewhere(t *testing.T, address, answer string) {
	t.Helper()
	there, here := sandbox.NewNamespace(t), sandbox.Here(t)
	sandbox.Cable(t, here, "stub", there, "eth0")
	here.Address("stub", "198.18.0.1/24")
	there.Address("eth0", address+"/24")
	var packets net.PacketConn
	there.Do(func() (err error) {
		packets, err = net.ListenPacket("udp4", address+":53")
		return err
	})
	server := &mdns.Server{PacketConn: packets, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, r *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(r)
		if r.Question[0].Qtype == mdns.TypeA {
			rr, _ := mdns.NewRR(r.Question[0].Name + " 60 IN A " + answer)
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})}
	started, served := make(chan struct{}), make(chan error, 1)
	server.NotifyStartedFunc = func() { close(started) }
	go func() { served <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := errors.Join(server.Shutdown(), <-served); err != nil {
			t.Error(err)
		}
	})
}

func TestPlugins(t *testing.T) {
	sandbox.Root(t)
	sandbox.Address(t, "lo", listen.Addr().String()+"/32")
	elsewhere(t, "198.18.0.2", "198.51.100.7")
	api := apitest.Start(t)
	dir := t.TempDir() // in a cluster /etc/coredns
	startDNSWith(t, Config{
		Listen: []netip.AddrPort{listen}, RESTConfig: api.Config, FilesDir: dir,
		ServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
	})
	create(t, api)
	pod(t, api, "shop", listen.Addr().String())

	setConfigMap(t, api, map[string]string{
		"Corefile": `
.:53 {
    errors
    autopath @kubernetes
    rewrite name exact old.example.com web.shop.svc.cluster.local
    rewrite stop {
        name regex (.*)\.prod\.example\.com {1}.shop.svc.cluster.local
        answer auto
    }
    template IN A sslip.example.com {
        match (^|[.])(?P<a>[0-9]+)-(?P<b>[0-9]+)-(?P<c>[0-9]+)-(?P<d>[0-9]+)[.]sslip[.]example[.]com[.]$
        answer "{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}"
    }
    hosts /etc/skiff-test/never {
        192.0.2.7 printer.example.com
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods verified
        fallthrough in-addr.arpa ip6.arpa
    }
    k8s_external ext.example.com
    cache 30
    loadbalance
}
import *.server
whoami.example.org:53 {
    whoami
    any
    nsid skiff
}
blocked.example.org {
    acl {
        block type A net *
        allow net *
    }
    erratic
}
`,
		"stub.server": `
consul.local corp.example.org {
    errors
    cache 30
    forward . 198.18.0.2
}
zone.example.org {
    file ` + dir + `/zone.example.org.db
    errors
}
`,
		"zone.example.org.db": "$ORIGIN zone.example.org.\n@ 60 IN SOA ns admin 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 192.0.2.53\nmail 60 IN MX 10 ns\n",
	})
	for _, q := range []struct {
		plugin, name string
		kind         uint16
		want         string
	}{
		{"hosts", "printer.example.com", mdns.TypeA, "192.0.2.7"},
		{"rewrite", "old.example.com", mdns.TypeA, "10.96.7.7"},
		{"rewrite", "web.prod.example.com", mdns.TypeA, "10.96.7.7"},
		{"template", "10-1-2-3.sslip.example.com", mdns.TypeA, "10.1.2.3"},
		{"autopath", "printer.example.com.shop.svc.cluster.local", mdns.TypeA, "192.0.2.7, printer.example.com."},
		{"kubernetes", "172-30-0-10.shop.pod.cluster.local", mdns.TypeA, "172.30.0.10"},
		{"kubernetes", "10-244-0-99.shop.pod.cluster.local", mdns.TypeA, "NXDOMAIN"},
		{"k8s_external", "lb.shop.ext.example.com", mdns.TypeA, "192.0.2.80"},
		{"stub domain by import", "api.corp.example.org", mdns.TypeA, "198.51.100.7"},
		{"stub domain by import", "web.service.consul.local", mdns.TypeA, "198.51.100.7"},
		{"file of the ConfigMap", "mail.zone.example.org", mdns.TypeMX, "10 ns.zone.example.org."},
		{"whoami", "whoami.example.org", mdns.TypeA, ""},
		{"acl", "blocked.example.org", mdns.TypeA, "REFUSED"},
		{"nothing forwards", "example.net", mdns.TypeA, "NXDOMAIN"},
	} {
		t.Run(q.plugin+" "+q.name, func(t *testing.T) { eventually(t, "udp", q.name, q.kind, q.want) })
	}

	t.Run("a file of the ConfigMap changes alone", func(t *testing.T) {
		cm, err := api.Client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "coredns", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cm.Data["zone.example.org.db"] = strings.ReplaceAll(cm.Data["zone.example.org.db"], "MX 10", "MX 20")
		setConfigMap(t, api, cm.Data)
		eventually(t, "udp", "mail.zone.example.org", mdns.TypeMX, "20 ns.zone.example.org.")
	})
}

// pod makes a Pod that runs at address, and a LoadBalancer Service.
func pod(t *testing.T, api *apitest.Server, namespace, address string) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := api.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(err)
	p, err := api.Client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "client"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}, metav1.CreateOptions{})
	must(err)
	p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, address, []corev1.PodIP{{IP: address}}
	_, err = api.Client.CoreV1().Pods(namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{})
	must(err)
	svc, err := api.Client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "lb"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}, metav1.CreateOptions{})
	must(err)
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.80"}}
	_, err = api.Client.CoreV1().Services(namespace).UpdateStatus(ctx, svc, metav1.UpdateOptions{})
	must(err)
}

func TestMetrics(t *testing.T) {
	sandbox.Root(t)
	sandbox.Address(t, "lo", listen.Addr().String()+"/32")
	api := apitest.Start(t)
	startDNS(t, api)
	eventually(t, "udp", "kubernetes.default.svc.cluster.local", mdns.TypeA, "10.96.0.1")

	t.Run("on the node's address, CoreDNS's own", func(t *testing.T) {
		text := scrape(t, "172.30.0.10:9153")
		for _, want := range []string{`coredns_dns_requests_total{`, `zone="."`, "coredns_dns_request_duration_seconds", "coredns_cache_entries", "go_goroutines"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
		for line := range strings.Lines(text) {
			if name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "); !strings.HasPrefix(name, "coredns_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
				t.Errorf("not CoreDNS's: %s", line)
			}
		}
		// Not for everybody in the node's namespace.
		if c, err := net.DialTimeout("tcp", "127.0.0.1:9153", time.Second); err == nil {
			c.Close()
			t.Error("served on 127.0.0.1 too")
		}
	})
	corefile := func(lines string) map[string]string {
		return map[string]string{"Corefile": ".:53 {\n kubernetes cluster.local\n" + lines + "}\n"}
	}
	t.Run("move with the Corefile", func(t *testing.T) {
		setConfigMap(t, api, corefile(" prometheus :9154\n"))
		eventuallyServes(t, "172.30.0.10:9154")
		if c, err := net.DialTimeout("tcp", "172.30.0.10:9153", time.Second); err == nil {
			c.Close()
			t.Error("the old address is still served")
		}
	})
	taken, err := net.Listen("tcp", "172.30.0.10:9200")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	t.Run("a port in use costs the metrics, and no name", func(t *testing.T) {
		setConfigMap(t, api, corefile(" prometheus :9200\n hosts {\n 192.0.2.1 a.example.com\n fallthrough\n }\n"))
		eventually(t, "udp", "a.example.com", mdns.TypeA, "192.0.2.1")
		awaitEvent(t, api, "MetricsNotServed", "172.30.0.10:9200")
		eventually(t, "udp", "kubernetes.default.svc.cluster.local", mdns.TypeA, "10.96.0.1")
	})
	t.Run("a plugin that cannot start leaves the last good Corefile in force", func(t *testing.T) {
		setConfigMap(t, api, corefile(" pprof 172.30.0.10:9200\n hosts {\n 192.0.2.2 a.example.com\n fallthrough\n }\n"))
		awaitEvent(t, api, "CorefileRefused", "9200")
		eventually(t, "udp", "a.example.com", mdns.TypeA, "192.0.2.1")
		eventually(t, "udp", "kubernetes.default.svc.cluster.local", mdns.TypeA, "10.96.0.1")
	})
	t.Run("a plugin that is left out says why", func(t *testing.T) {
		setConfigMap(t, api, corefile(" trace\n"))
		awaitEvent(t, api, "CorefileRefused", "plugin trace is not in this CoreDNS")
	})
	t.Run("health and ready where they are told to", func(t *testing.T) {
		setConfigMap(t, api, corefile(" health 172.30.0.10:8080 {\n lameduck 60s\n }\n ready 172.30.0.10:8181\n"))
		for _, url := range []string{"http://172.30.0.10:8080/health", "http://172.30.0.10:8181/ready"} {
			deadline := time.Now().Add(time.Minute)
			for {
				code, text, err := get(url)
				if err == nil && code == http.StatusOK {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: %d %s, %v", url, code, text, err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
}

func get(url string) (int, string, error) {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func scrape(t *testing.T, address string) string {
	t.Helper()
	code, text, err := get("http://" + address + "/metrics")
	if err != nil || code != http.StatusOK {
		t.Fatalf("metrics of %s: %d, %v", address, code, err)
	}
	return text
}

func eventuallyServes(t *testing.T, address string) {
	t.Helper()
	var last error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		code, _, err := get("http://" + address + "/metrics")
		if err == nil && code == http.StatusOK {
			return
		}
		last = fmt.Errorf("status %d, %w", code, err)
	}
	t.Fatalf("metrics of %s: %v", address, last)
}

// TestADyingStartIsNotTheProcesss holds that what a plugin does at its worst
// is an error.
func TestADyingStartIsNotTheProcesss(t *testing.T) {
	registerPlugins()
	s := &server{cfg: Config{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5353")}}}
	dying.Do(registerDying)
	if err := s.launch(&hostedCorefile{text: []byte(".:5353 {\nskiff_dying\n}\n")}); err == nil || !strings.Contains(err.Error(), "panic: dies") {
		t.Errorf("got %v", err)
	}
	if err := s.launch(&hostedCorefile{text: []byte(".:5353 {\nbind 127.0.0.1\nskiff_outside\n}\n")}); err != nil {
		t.Fatal(err)
	}
	good := s.instance
	defer s.stop()
	if err := s.launch(&hostedCorefile{text: []byte(".:5353 {\nskiff_dying\n}\n")}); err == nil || s.instance != good {
		t.Errorf("got %v, instance %p, want %p", err, s.instance, good)
	}
}

var dying sync.Once

func registerDying() {
	dnsserver.Directives = append(slices.Clone(dnsserver.Directives), "skiff_dying")
	plugin.Register("skiff_dying", func(*caddy.Controller) error { panic("dies") })
}
