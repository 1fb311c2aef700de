package supervise

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

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
