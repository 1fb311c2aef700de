package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/dataplane/internal/apitest"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/switchnat"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// cluster is an API server and the loaders on it.
type cluster struct {
	*testing.T
	api *apitest.Server
	// proxy is the client that nodes have.
	proxy kubernetes.Interface
	// pins and switchPins are on bpf file systems.
	pins, switchPins string
	// serve makes the next loader answer on upstream's ports.
	serve bool
	// foreignPods: nobody tells the next loader of pods.
	foreignPods bool
	// hostPorts are given to the next loader.
	hostPorts []HostPort
}

func newCluster(t *testing.T) *cluster {
	sandbox.Root(t)
	c := &cluster{T: t, api: apitest.Start(t), pins: sandbox.BPFFS(t) + "/services", switchPins: sandbox.BPFFS(t)}
	cfg := rest.CopyConfig(c.api.Config)
	cfg.Impersonate.UserName = "system:kube-proxy"
	var err error
	if c.proxy, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	sandbox.Cable(t, sandbox.Here(t), "switch0", sandbox.NewNamespace(t), "eth0")
	sw := switchnat.Config{Device: "switch0", PinDir: c.switchPins}
	if err := switchnat.Load(sw); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := switchnat.Unpin(c.switchPins); err != nil {
			t.Error(err)
		}
		if err := Unpin(c.pins); err != nil {
			t.Error(err)
		}
	})
	return c
}

// start runs a loader until stop is called, which leaves everything pinned,
// as the death of the process does.
func (c *cluster) start() (stop func()) {
	c.Helper()
	_, stop = c.run()
	return stop
}

func (c *cluster) run() (_ *Loader, stop func()) {
	c.Helper()
	begin := time.Now()
	cfg := Config{
		NodeName: "node-1", NodeIPs: []netip.Addr{nodeAddr, nodeAddr6}, CgroupPath: sandbox.Cgroup(),
		PinDir: c.pins, SwitchPinDir: c.switchPins, Client: c.proxy,
		ForeignPods: c.foreignPods,
	}
	if c.serve {
		cfg.HealthzAddress, cfg.MetricsAddress = HealthzAddress, MetricsAddress
	}
	l, err := New(cfg)
	if err != nil {
		c.Fatal(err)
	}
	if err := l.SetHostPorts(c.hostPorts); err != nil {
		c.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = func() {
		c.Helper()
		cancel()
		if err := <-done; err != nil {
			c.Error(err)
		}
		if err := l.Close(); err != nil {
			c.Error(err)
		}
	}
	select {
	case <-l.Synced():
		c.Logf("programs attached and maps filled %s after New", time.Since(begin))
	case <-time.After(10 * time.Second):
		stop()
		c.Fatal("not synced after 10 s")
	}
	return l, stop
}

func (c *cluster) service(svc *corev1.Service) *corev1.Service {
	c.Helper()
	svc, err := c.api.Client.CoreV1().Services("default").Create(c.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return svc
}

// endpoints makes or replaces the one slice of a service.
func (c *cluster) endpoints(service, port string, proto corev1.Protocol, backends ...netip.AddrPort) {
	c.Helper()
	es := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	node := "node-1"
	for _, b := range backends {
		es.Endpoints = append(es.Endpoints, discoveryv1.Endpoint{Addresses: []string{b.Addr().String()}, NodeName: &node})
		number := int32(b.Port())
		es.Ports = []discoveryv1.EndpointPort{{Name: &port, Protocol: &proto, Port: &number}}
	}
	client := c.api.Client.DiscoveryV1().EndpointSlices("default")
	if err := client.Delete(c.Context(), service, metav1.DeleteOptions{}); err == nil {
		c.Logf("slice of %s replaced", service)
	}
	if _, err := client.Create(c.Context(), es, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

// apiserverEndpoint waits until default/kubernetes has its endpoint.
func (c *cluster) apiserverEndpoint() string {
	c.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		es, err := c.api.Client.DiscoveryV1().EndpointSlices("default").Get(c.Context(), "kubernetes", metav1.GetOptions{})
		if err == nil && len(es.Endpoints) > 0 {
			return fmt.Sprintf("%s:%d", es.Endpoints[0].Addresses[0], *es.Ports[0].Port)
		}
		if time.Since(start) > 5*time.Second {
			c.Fatalf("endpoint of default/kubernetes: %v, %v", es, err)
		}
	}
}

// reaches calls until the answer comes from a backend.
func (c *cluster) reaches(network, addr string, backend netip.AddrPort) time.Duration {
	c.Helper()
	start := time.Now()
	for {
		answer, _, err := call(network, addr)
		if err == nil && answer == backend.String() {
			return time.Since(start)
		}
		if time.Since(start) > 5*time.Second {
			c.Fatalf("%s %s: got %q, %v; want %s", network, addr, answer, err, backend)
		}
	}
}

// backendOn is a server on an address that an EndpointSlice may have.
func (c *cluster) backendOn(w *world, network, addr string) netip.AddrPort {
	c.Helper()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		c.Fatal(err)
	}
	sandbox.Address(c.T, "lo", host+"/32")
	if network == "udp" {
		return w.udpServer(addr)
	}
	return w.tcpServer(addr)
}

func TestLoaderFollowsTheAPIServer(t *testing.T) {
	c := newCluster(t)
	w := &world{T: t}
	tcp, udp := c.backendOn(w, "tcp", "10.244.0.5:8080"), c.backendOn(w, "udp", "10.244.0.6:8053")
	apiserver := c.backendOn(w, "tcp", c.apiserverEndpoint())
	stop := c.start()

	// default/kubernetes is there without anybody's doing.
	c.reaches("tcp4", "10.96.0.1:443", apiserver)

	c.service(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.7.7", Type: corev1.ServiceTypeNodePort, ExternalIPs: []string{"198.51.100.7"}, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, NodePort: 30080},
		}},
	})
	c.endpoints("web", "http", corev1.ProtocolTCP, tcp)
	t.Logf("reachable %s after the slice was written", c.reaches("tcp4", "10.96.7.7:80", tcp))
	c.reaches("tcp4", "172.30.0.11:30080", tcp)
	c.reaches("tcp4", "127.0.0.1:30080", tcp)
	c.reaches("tcp4", "198.51.100.7:80", tcp)

	c.service(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "names"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.7.8", Ports: []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}},
	})
	c.endpoints("names", "dns", corev1.ProtocolUDP, udp)
	c.reaches("udp4", "10.96.7.8:53", udp)

	// Refused without endpoints, unknown without the service.
	c.endpoints("web", "http", corev1.ProtocolTCP)
	for start := time.Now(); ; {
		_, _, err := call("tcp4", "10.96.7.7:80")
		if refused(err) {
			break
		}
		if time.Since(start) > 5*time.Second {
			t.Fatalf("without endpoints: %v", err)
		}
	}

	// A new process finds everything in force, and mends what changed while
	// there was none.
	stop()
	c.reaches("udp4", "10.96.7.8:53", udp)
	if err := c.api.Client.CoreV1().Services("default").Delete(t.Context(), "names", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.endpoints("web", "http", corev1.ProtocolTCP, tcp)
	stop = c.start()
	c.reaches("tcp4", "10.96.7.7:80", tcp)
	stop()
	for _, dir := range []string{c.pins, c.switchPins} {
		tab, err := table.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer tab.Close()
		all := tab.Frontends()
		if len(all) == 0 {
			t.Errorf("%s: empty", dir)
		}
		for _, f := range all {
			if f.Addr == netip.MustParseAddr("10.96.7.8") {
				t.Errorf("%s: %s outlived its Service", dir, f.Key)
			}
		}
	}
}

func TestLoaderReportsWhatItDoesNotServe(t *testing.T) {
	c := newCluster(t)
	backend := c.backendOn(&world{T: t}, "tcp", "10.244.0.9:8080")
	stop := c.start()
	defer stop()
	for i := range 2 {
		c.service(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("same-%d", i)},
			Spec:       corev1.ServiceSpec{ExternalIPs: []string{"198.51.100.7"}, Ports: []corev1.ServicePort{{Port: 80}}},
		})
	}
	want := map[string]string{"same-1": "AddressInUse"}
	for start := time.Now(); len(want) > 0; time.Sleep(20 * time.Millisecond) {
		events, err := c.api.Client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if want[e.InvolvedObject.Name] == e.Reason {
				t.Logf("%s: %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
				delete(want, e.InvolvedObject.Name)
			}
		}
		if time.Since(start) > 5*time.Second {
			t.Fatalf("no events %v among %v", want, events.Items)
		}
	}
	// The one that waited gets the address when it is free.
	if err := c.api.Client.CoreV1().Services("default").Delete(t.Context(), "same-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.endpoints("same-1", "", corev1.ProtocolTCP, backend)
	c.reaches("tcp4", "198.51.100.7:80", backend)
}

func TestHealthCheckNodePorts(t *testing.T) {
	c := newCluster(t)
	stop := c.start()
	running := true
	defer func() {
		if running {
			stop()
		}
	}()
	c.service(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 30999,
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}},
		},
	})
	expect := func(want int) {
		t.Helper()
		for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			resp, err := http.Get("http://127.0.0.1:30999/")
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == want {
					return
				}
			}
			if time.Since(start) > 5*time.Second {
				t.Fatalf("health check node port: %v, %v; want %d", resp, err, want)
			}
		}
	}
	expect(http.StatusServiceUnavailable)
	c.endpoints("web", "http", corev1.ProtocolTCP, netip.MustParseAddrPort("10.244.0.9:80"))
	expect(http.StatusOK)
	c.endpoints("web", "http", corev1.ProtocolTCP)
	expect(http.StatusServiceUnavailable)
	http.DefaultClient.CloseIdleConnections()
	running = false
	stop()
	if _, err := net.DialTimeout("tcp4", "127.0.0.1:30999", time.Second); !refused(err) {
		t.Errorf("after the end: %v, want connection refused", err)
	}
}

func TestHealthAndMetricsAreWhereUpstreamsAre(t *testing.T) {
	c := newCluster(t)
	c.serve = true
	backend := c.backendOn(&world{T: t}, "tcp", "10.244.0.9:8080")
	stop := c.start()
	running := true
	defer func() {
		if running {
			stop()
		}
	}()
	c.service(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.7.7", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	})
	c.endpoints("web", "http", corev1.ProtocolTCP, backend)
	c.reaches("tcp4", "10.96.7.7:80", backend)
	get := func(url string) (int, string) {
		t.Helper()
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	// Without a Node the node is not eligible; the proxy lives.
	for url, want := range map[string]struct {
		code int
		text string
	}{
		"http://127.0.0.1:10256/healthz":   {503, `"nodeEligible":false`},
		"http://127.0.0.1:10256/livez":     {200, `"lastUpdated":`},
		"http://127.0.0.1:10249/healthz":   {200, "ok"},
		"http://127.0.0.1:10249/proxyMode": {200, "ebpf"},
		"http://127.0.0.1:10249/metrics":   {200, `skiff_services_frontends{maps="switch"}`},
	} {
		if code, body := get(url); code != want.code || !strings.Contains(body, want.text) {
			t.Errorf("%s: %d %s, want %d with %s", url, code, body, want.code, want.text)
		}
	}
	_, body := get("http://127.0.0.1:10249/metrics")
	for _, name := range []string{
		"skiff_services_programming_duration_seconds_count", `skiff_services_map_max_entries{map="lb_services",maps="node"} 65536`,
		`skiff_services_map_entries{map="nat_flows",maps="switch"} 0`, `skiff_services_refused_total{maps="node",reason="source-range"} 0`,
		`skiff_services_nat_flows_evicted_total{maps="switch"} 0`, "skiff_services_stale_udp_sockets_destroyed_total 0", "skiff_services_unwritten 0",
	} {
		if !strings.Contains(body, name) {
			t.Errorf("no %s in\n%s", name, body)
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	if _, err := c.api.Client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		code, body := get("http://127.0.0.1:10256/healthz")
		if code == 200 && strings.Contains(body, `"nodeEligible":true`) {
			break
		}
		if time.Since(start) > 5*time.Second {
			t.Fatalf("with a Node: %d %s", code, body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	running = false
	stop()
	if _, err := net.DialTimeout("tcp4", "127.0.0.1:10256", time.Second); !refused(err) {
		t.Errorf("after the end: %v, want connection refused", err)
	}
}

func TestSourceRangesOfALoadBalancer(t *testing.T) {
	c := newCluster(t)
	backend := c.backendOn(&world{T: t}, "tcp", "10.244.0.5:8080")
	l, stop := c.run()
	svc := c.service(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerSourceRanges: []string{"10.244.7.7/32", nodeAddr.String() + "/32"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}},
		},
	})
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.31.0.5"}}
	if _, err := c.api.Client.CoreV1().Services("default").UpdateStatus(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.endpoints("web", "http", corev1.ProtocolTCP, backend)
	c.reaches("tcp4", "172.31.0.5:80", backend) // the node's own address is in the ranges
	allowed, other := sandbox.NewNamespace(t), sandbox.NewNamespace(t)
	for ns, addr := range map[*sandbox.Namespace]string{allowed: "10.244.7.7", other: "10.244.7.8"} {
		// Mounted, as a pod's is.
		file := filepath.Join(t.TempDir(), "netns")
		if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mount(ns.Path(), file, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(file, 0); err != nil {
				t.Error(err)
			}
		})
		if err := l.PodAttached(ns.Path(), []netip.Addr{netip.MustParseAddr(addr), netip.MustParseAddr("fd00:244::7")}); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		for ns, may := range map[*sandbox.Namespace]bool{allowed: true, other: false} {
			ns.Do(func() error {
				// The pod that may call has no route to the backend here.
				if _, _, err := call("tcp4", "172.31.0.5:80"); errors.Is(err, unix.EPERM) == may {
					t.Errorf("a pod: %v, want allowed %v", err, may)
				}
				return nil
			})
		}
	}
	check()
	// The next process knows them without being told.
	stop()
	l, stop = c.run()
	defer stop()
	check()
	if err := l.PodDetached(allowed.Path()); err != nil {
		t.Fatal(err)
	}
	if err := l.PodDetached("/proc/self/fd/none"); err != nil {
		t.Errorf("a namespace that is gone: %v", err)
	}
	allowed.Do(func() error {
		if _, _, err := call("tcp4", "172.31.0.5:80"); !errors.Is(err, unix.EPERM) {
			t.Errorf("a pod that was forgotten: %v, want operation not permitted", err)
		}
		return nil
	})
}
