package lb

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

func TestHostPorts(t *testing.T) {
	c := newCluster(t)
	w := &world{T: t}
	here, outside := sandbox.Here(t), sandbox.NewNamespace(t)
	sandbox.Cable(t, here, "up0", outside, "eth0")
	sandbox.Address(t, "up0", nodeAddr.String()+"/32")
	here.Route("172.30.0.2/32", "", "up0", unix.RTN_UNICAST)
	outside.Address("eth0", "172.30.0.2/32")
	outside.Route(nodeAddr.String()+"/32", "", "eth0", unix.RTN_UNICAST)
	backend := c.backendOn(w, "tcp", "10.244.0.5:8080")
	backend2 := c.backendOn(w, "udp", "10.244.0.6:8080")

	fromOutside := func(network, addr string) (answer string, err error) {
		outside.Do(func() error {
			answer, err = callUntranslated(network, addr)
			return nil
		})
		return answer, err
	}
	gone := func(network, addr string) {
		t.Helper()
		if _, err := fromOutside(network, addr); !refused(err) {
			t.Errorf("%s %s from outside: %v, want connection refused", network, addr, err)
		}
		if _, _, err := call(network, addr); !refused(err) {
			t.Errorf("%s %s: %v, want connection refused", network, addr, err)
		}
	}
	ports := []HostPort{
		{Protocol: "tcp", HostIP: netip.IPv4Unspecified(), Port: 54321, PodIP: backend.Addr(), PodPort: backend.Port()},
		{Protocol: "udp", HostIP: nodeAddr, Port: 54321, PodIP: backend2.Addr(), PodPort: backend2.Port()},
		{Protocol: "tcp", HostIP: loopback, Port: 54322, PodIP: backend.Addr(), PodPort: backend.Port()},
	}
	l, stop := c.run()
	gone("tcp4", "172.30.0.11:54321")
	if err := l.HostPorts(ports, true); err != nil {
		t.Fatal(err)
	}
	numbers := func(want ...string) {
		t.Helper()
		families, err := l.meters.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, f := range families {
			for _, m := range f.Metric {
				for _, label := range m.Label {
					if label.GetValue() == "uplink" {
						have = append(have, fmt.Sprint(f.GetName(), " ", m.GetGauge().GetValue()+m.GetCounter().GetValue()))
					}
				}
			}
		}
		for _, w := range want {
			if !slices.Contains(have, w) {
				t.Errorf("no %q in %q", w, have)
			}
		}
		if len(want) == 0 && len(have) > 0 {
			t.Errorf("numbers of the uplink without host ports: %q", have)
		}
	}
	check := func() {
		t.Helper()
		for _, addr := range []string{"172.30.0.11:54321", "127.0.0.1:54321", "127.0.0.1:54322"} {
			c.reaches("tcp4", addr, backend)
		}
		c.reaches("udp4", "172.30.0.11:54321", backend2)
		if answer, err := fromOutside("tcp4", "172.30.0.11:54321"); err != nil || answer != backend.String() {
			t.Errorf("tcp from outside: %q, %v", answer, err)
		}
		if answer, err := fromOutside("udp4", "172.30.0.11:54321"); err != nil || answer != backend2.String() {
			t.Errorf("udp from outside: %q, %v", answer, err)
		}
		gone("tcp4", "172.30.0.11:54322")
	}
	check()
	numbers("skiff_services_frontends 2", "skiff_services_nat_flows_opened_total 2", "skiff_services_nat_flows_evicted_total 0")

	// Another process takes over.
	stop()
	check()
	c.hostPorts = ports
	l, stop = c.run()
	defer stop()
	check()

	// A new pod has the port before the old one lets go.
	next := ports[0]
	next.PodIP, next.PodPort = netip.MustParseAddr("10.244.0.7"), 80
	if err := l.HostPorts([]HostPort{next}, true); err != nil {
		t.Fatal(err)
	}
	if err := l.HostPorts(ports[:1], false); err != nil {
		t.Fatal(err)
	}
	if c, err := net.DialTimeout("tcp4", "172.30.0.11:54321", time.Second); refused(err) {
		t.Errorf("the new pod's port went with the old pod: %v, %v", c, err)
	}
	if err := l.HostPorts([]HostPort{next, ports[1], ports[2]}, false); err != nil {
		t.Fatal(err)
	}
	gone("tcp4", "172.30.0.11:54321")
	gone("udp4", "172.30.0.11:54321")
	numbers()
	if n := len(l.targets[0].claims.owner); n == 0 {
		t.Error("no service left")
	}
	for k := range l.targets[0].claims.of {
		if k.name.Namespace == "" {
			t.Errorf("%s still claims a key", k.name)
		}
	}
}

func TestHostPortAddresses(t *testing.T) {
	l := &Loader{cfg: Config{NodeIPs: []netip.Addr{nodeAddr, nodeAddr6}}}
	four, six := netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00:244::5")
	for _, c := range []struct {
		name string
		port HostPort
		want []string
	}{
		{"every address of the pod's family", HostPort{Protocol: "tcp", HostIP: netip.IPv4Unspecified(), Port: 80, PodIP: four, PodPort: 8080}, []string{
			"172.30.0.11:80/TCP -> 10.244.0.5:8080", "127.0.0.1:80/TCP [node only] -> 10.244.0.5:8080",
		}},
		{"and of IPv6", HostPort{Protocol: "udp", Port: 80, PodIP: six, PodPort: 8080}, []string{
			"[fd00:30::11]:80/UDP -> [fd00:244::5]:8080", "[::1]:80/UDP [node only] -> [fd00:244::5]:8080",
		}},
		{"one address", HostPort{Protocol: "tcp", HostIP: nodeAddr6, Port: 80, PodIP: six, PodPort: 8080}, []string{
			"[fd00:30::11]:80/TCP -> [fd00:244::5]:8080",
		}},
		{"an address of the other family is not the pod's", HostPort{Protocol: "tcp", HostIP: nodeAddr6, Port: 80, PodIP: four, PodPort: 8080}, nil},
		{"SCTP does not answer on loopback addresses", HostPort{Protocol: "sctp", HostIP: netip.IPv4Unspecified(), Port: 80, PodIP: four, PodPort: 8080}, []string{
			"172.30.0.11:80/SCTP -> 10.244.0.5:8080",
		}},
		{"also where they are asked for", HostPort{Protocol: "sctp", HostIP: loopback, Port: 80, PodIP: four, PodPort: 8080}, nil},
	} {
		var got []string
		for _, f := range l.frontendsOf(c.port) {
			got = append(got, text(f))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
