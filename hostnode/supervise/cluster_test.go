package supervise

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// testCluster is a cluster of one control plane and workers.
func testCluster(name string, workers int) *cluster.Cluster {
	c := &cluster.Cluster{Name: name, Nodes: []cluster.Node{{Role: cluster.ControlPlaneRole}}}
	for range workers {
		c.Nodes = append(c.Nodes, cluster.Node{Role: cluster.WorkerRole})
	}
	cluster.SetDefaults(c)
	return c
}

func create(t testing.TB, c *cluster.Cluster) *Info {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			for _, m := range append([]string{SupervisorName}, machineNames(c)...) {
				t.Log("log of " + m)
				_ = Logs(ctx, LogsOptions{Cluster: c.Name, Machine: m}, t.Output())
			}
		}
		if err := Delete(ctx, c.Name); err != nil && !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
	info, err := Create(ctx, CreateOptions{Cluster: c, Retain: true, Progress: func(e Event) { t.Logf("%+v", e) }})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func machineNames(c *cluster.Cluster) []string {
	var names []string
	for _, n := range c.Nodes {
		names = append(names, n.Name)
	}
	return names
}

func TestCreateAndDelete(t *testing.T) {
	needRoot(t)
	start := time.Now()
	info := create(t, testCluster("svt-basic", 2))
	t.Logf("created in %v", time.Since(start))
	if info.State != Running || len(info.Machines) != 3 {
		t.Errorf("created cluster is %+v", info)
	}
	start = time.Now()
	if err := Delete(t.Context(), "svt-basic"); err != nil {
		t.Fatal(err)
	}
	t.Logf("deleted in %v", time.Since(start))
}

func TestCreateInEveryFamily(t *testing.T) {
	needRoot(t)
	if err := probeIPv6(); err != nil {
		t.Skip(err)
	}
	subnets := map[string]bool{}
	for name, family := range map[string]cluster.IPFamily{"svt-dual": cluster.DualStack, "svt-six": cluster.IPv6} {
		c := &cluster.Cluster{Name: name, Networking: cluster.Networking{IPFamily: family}}
		cluster.SetDefaults(c)
		info := create(t, c)
		ip := info.Machines[0].IPs[len(info.Machines[0].IPs)-1]
		if len(info.Machines[0].IPs) != len(c.Networking.Families()) || !ip.Is6() {
			t.Errorf("%s: node addresses %v", name, info.Machines[0].IPs)
		}
		if subnets[info.PodSubnet] {
			t.Errorf("%s: another cluster has %s", name, info.PodSubnet)
		}
		subnets[info.PodSubnet] = true
		// Nobody listens there, and the node itself says so.
		dialer := net.Dialer{Timeout: 500 * time.Millisecond}
		if _, err := dialer.Dial("tcp", netip.AddrPortFrom(ip, 9).String()); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: the host to %s: %v, want %v", name, ip, err, unix.ECONNREFUSED)
		}
	}
}
