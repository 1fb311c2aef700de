package supervise

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

var update = flag.Bool("update", false, "rewrite golden files")

// plannedRecord is a cluster with everything that a plan looks at.
func plannedRecord(t *testing.T) *record {
	t.Helper()
	c := testCluster("dev", 1)
	c.FeatureGates = map[string]bool{"SomeGate": true}
	c.AuditPolicy = "/home/me/audit.yaml"
	c.RuntimeHandlers = []cluster.RuntimeHandler{{Name: "crun", Path: "/home/me/bin/crun"}}
	c.EtcdServers = []string{"https://192.0.2.1:2379"}
	c.EtcdTLS = &cluster.EtcdTLS{CAFile: "/home/me/ca.crt"}
	c.Networking = cluster.Networking{
		IPFamily: cluster.IPv4, APIServerAddress: "127.0.0.1", APIServerPort: 40000, NodeSubnet: "172.30.0.0/24", PodSubnet: "10.244.0.0/16",
		ServiceSubnet: "10.96.0.0/16", LoadBalancerSubnet: "172.31.0.0/24", DNSSearch: &[]string{"example.org"},
	}
	c.Nodes[1].Labels = map[string]string{"tier": "db"}
	c.Nodes[1].Resources = cluster.Resources{CPU: "2", Memory: "4Gi", Pods: 20, EphemeralStorage: "10Gi"}
	c.Nodes[1].ExtraMounts = []cluster.Mount{{HostPath: "/data", ContainerPath: "/mnt/data", ReadOnly: true, Propagation: "HostToContainer"}}
	c.Nodes[1].ExtraPortMappings = []cluster.PortMapping{{ContainerPort: 30080, HostPort: 8080, ListenAddress: "127.0.0.1", Protocol: "TCP"}}
	rec, err := newRecord(c, 1500, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	rec.ID = "id"
	return rec
}

// dualRecord is a cluster of both families, IPv6 first, with another CNI.
func dualRecord(t *testing.T) *record {
	t.Helper()
	c := testCluster("dual", 0)
	c.Networking = cluster.Networking{
		IPFamily: cluster.DualStack, APIServerAddress: "::1", APIServerPort: 40000, DisableDefaultCNI: true,
		NodeSubnet: "fd00:172:30::/64,172.30.0.0/24", PodSubnet: "fd00:10:244::/56,10.244.0.0/16",
		ServiceSubnet: "fd00:10:96::/112,10.96.0.0/16", LoadBalancerSubnet: "fd00:172:31::/112,172.31.0.0/24",
	}
	rec, err := newRecord(c, 1400, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	rec.ID, rec.Verbosity = "id", 2
	return rec
}

func TestPlans(t *testing.T) {
	testPlans(t, plannedRecord(t))
	testPlans(t, dualRecord(t))
}

func testPlans(t *testing.T, rec *record) {
	h := host{
		paths:     Paths{StateDir: "/var/lib/skiff", RunDir: "/run/skiff", Libexec: "/opt/skiff/libexec"},
		layout:    namespaces.Hierarchies{{Mount: "/sys/fs/cgroup/cpu,cpuacct", Controllers: "cpu,cpuacct"}, {Mount: "/sys/fs/cgroup/unified"}},
		resolvers: []string{"192.0.2.53", "2001:db8::53", "fe80::1%eth0"},
		dirs:      []string{"/usr", "/etc/ssl"},
		tasks:     32768,
	}
	for i, m := range rec.Machines {
		t.Run(m.Name, func(t *testing.T) {
			plan, err := planMachine(rec, i, h)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(map[string]any{
				"node.json": plan.node, "control-plane.json": plan.controlPlane, "machine": plan.init, "limits": plan.limits,
			}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", m.Name+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("%s is not as planned; run with -update and read the diff\n%s", path, got)
			}
		})
	}
}

func TestPlanSocketsNamesFields(t *testing.T) {
	rec := plannedRecord(t)
	want := map[string]socket{"port/tcp/30080/0": {
		network: "tcp", address: "127.0.0.1:8080",
		portField: "nodes[1].extraPortMappings[0].hostPort", addressField: "nodes[1].extraPortMappings[0].listenAddress"}}
	if got := planSockets(rec, 1); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestQuantities(t *testing.T) {
	tests := []struct {
		in   string
		want int64
		ok   bool
	}{
		{"", 0, true}, {"2", 2, true}, {"4Gi", 4 << 30, true}, {"1k", 1000, true},
		{"500m", 0, false}, {"-1", 0, false}, {"12Q", 0, false},
	}
	for _, tt := range tests {
		got, err := wholeNumber(tt.in)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q: %d, %v", tt.in, got, err)
		}
	}
}

func TestResolvers(t *testing.T) {
	conf := "# comment\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 2001:db8::1\nnameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver\nsearch x\nnameserver 198.51.100.2 # two\n"
	if got := strings.Join(parseResolvers(conf), " "); got != "2001:db8::1 192.0.2.1 198.51.100.2" {
		t.Errorf("got %q", got)
	}
	dir := t.TempDir()
	stub, resolved := filepath.Join(dir, "stub"), filepath.Join(dir, "real")
	for path, text := range map[string]string{stub: "nameserver 127.0.0.53\n", resolved: "nameserver 192.0.2.9\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := readResolvers(filepath.Join(dir, "none"), stub, resolved); len(got) != 1 || got[0] != "192.0.2.9" {
		t.Errorf("got %v", got)
	}
}

func TestMountOfFindsTheMountBelow(t *testing.T) {
	if got := unescape(`/with\040space\134`); got != `/with space\` {
		t.Errorf("got %q", got)
	}
	point, _, err := mountOf("/proc/self/status")
	if err != nil || point != "/proc" {
		t.Errorf("got %q, %v", point, err)
	}
}

func TestAddressesOfADualStackCluster(t *testing.T) {
	rec := dualRecord(t)
	if got, want := apiServerURL(rec), "https://[fd00:172:30::a]:6443"; got != want {
		t.Errorf("API server for machines: %s, want %s", got, want)
	}
	for address, want := range map[string]string{"::1": "[::1]:40000", "::": "[::1]:40000", "0.0.0.0": "127.0.0.1:40000", "192.0.2.1": "192.0.2.1:40000"} {
		rec.Cluster.Networking.APIServerAddress = address
		if got := clientAddress(&rec.Cluster); got != want {
			t.Errorf("API server for clients at %s: %s, want %s", address, got, want)
		}
	}
	cfg, err := pkiConfig(t.TempDir(), rec)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := machine.Join(cfg.ServiceIPs), "fd00:10:96::1,10.96.0.1"; got != want {
		t.Errorf("certificates are for %s, want %s", got, want)
	}
	if got, want := familiesOf(&rec.Cluster.Networking), []fabric.Family{fabric.IPv6, fabric.IPv4}; !slices.Equal(got, want) {
		t.Errorf("families %v, want %v", got, want)
	}
}

func TestTasksLeaveRoomForOthers(t *testing.T) {
	for _, tt := range []struct {
		name                        string
		pods, host, machine, ofPods int
	}{
		{"the kernel's default", 110, 32768, 16384, 12288},
		{"systemd's default", 110, 192730, 96365, 92269},
		{"few Pods", 8, 192730, 12288, 8192},
		{"one Pod", 1, 192730, 5120, 2560},
		{"a host that does not say", 110, 0, 116736, 112640},
		{"Pods that nobody counts", 0, 32768, 16384, 12288},
		{"nothing known", 0, 0, 0, 0},
	} {
		if machine, ofPods := tasks(tt.pods, tt.host); machine != tt.machine || ofPods != tt.ofPods {
			t.Errorf("%s: %d, of them %d of Pods; want %d and %d", tt.name, machine, ofPods, tt.machine, tt.ofPods)
		}
	}
}
