package supervise

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/lifeline"
)

// replicatedRecord is a cluster of three control planes and two workers.
func replicatedRecord(t *testing.T) *record {
	t.Helper()
	c := &cluster.Cluster{Name: "ha", Nodes: []cluster.Node{
		{}, {}, {}, {Role: cluster.WorkerRole}, {Role: cluster.WorkerRole},
	}}
	cluster.SetDefaults(c)
	c.Networking.NodeSubnet, c.Networking.PodSubnet = "172.30.0.0/24", "10.244.0.0/16"
	c.Networking.ServiceSubnet, c.Networking.LoadBalancerSubnet = "10.96.0.0/16", "172.31.0.0/24"
	rec, err := newRecord(c, 1500, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestControlPlanesShareTheSocketOfTheHost(t *testing.T) {
	rec := replicatedRecord(t)
	files, err := openSockets(t.Context(), rec, openSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	if rec.Cluster.Networking.APIServerPort == 0 {
		t.Error("the port that was free is not noted")
	}
	for _, name := range []string{"ha-control-plane", "ha-control-plane2", "ha-control-plane3"} {
		f := files[name+"/apiserver"]
		if f == nil {
			t.Fatalf("%s has no socket", name)
		}
		l, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", clientAddress(&rec.Cluster))
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := l.Accept()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		theirs.Close()
		conn.Close()
		l.Close()
	}
	if len(files) != 3 {
		t.Errorf("%d sockets", len(files))
	}
}

func TestEveryNodeKnowsAllAPIServersAndPrefersOne(t *testing.T) {
	rec := replicatedRecord(t)
	for i, want := range []string{"172.30.0.10", "172.30.0.11", "172.30.0.12", "172.30.0.10", "172.30.0.11"} {
		got := apiServers(rec, i)
		if len(got) != 3 || got[0].Addr() != netip.MustParseAddr(want) {
			t.Errorf("%s has %v, want %s first", rec.Machines[i].Name, got, want)
		}
	}
	if got := apiServers(plannedRecord(t), 0); got != nil {
		t.Errorf("with one control plane: %v", got)
	}
}

func TestAControlPlaneThatIsMadeAnewHasTheFilesOfTheOthers(t *testing.T) {
	rec, dir, policy := replicatedRecord(t), t.TempDir(), filepath.Join(t.TempDir(), "audit.yaml")
	rec.Cluster.AuditPolicy = policy
	own := func(i int) string { return filepath.Join(dir, "machines", rec.Machines[i].Name) }
	if err := copyGiven(dir, rec, own(0)); err == nil {
		t.Error("a file that nobody has is copied")
	}
	for i, content := range []string{"as given", "changed"} {
		if err := os.MkdirAll(filepath.Join(own(i), "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(policy, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := copyGiven(dir, rec, own(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(policy); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(own(2), "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyGiven(dir, rec, own(2)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		data, err := os.ReadFile(filepath.Join(own(i), "etc", filepath.Base(auditPolicyFile)))
		if string(data) != "as given" || err != nil {
			t.Errorf("%s has %q, %v", rec.Machines[i].Name, data, err)
		}
	}
}

func TestAMemberWithoutDataJoinsOnlyWhatHasFormed(t *testing.T) {
	rec := replicatedRecord(t)
	for name, test := range map[string]struct {
		files []string
		want  bool
	}{
		"a new cluster":                       {nil, false},
		"a first start that was cut off":      {[]string{"ha-control-plane2/var/lib/etcd/member/wal/0.wal"}, false},
		"a member that lost its data":         {[]string{"ha-control-plane2/var/lib/etcd/member/wal/0.wal", "ha-control-plane2/var/lib/etcd/formed"}, true},
		"a member with its data":              {[]string{"ha-control-plane/var/lib/etcd/member/wal/0.wal", "ha-control-plane2/var/lib/etcd/formed"}, false},
		"data lost but for the mark itself":   {[]string{"ha-control-plane/var/lib/etcd/formed", "ha-control-plane3/var/lib/etcd/formed"}, true},
		"only its own mark of before is left": {[]string{"ha-control-plane/var/lib/etcd/formed"}, false},
	} {
		dir := t.TempDir()
		for _, f := range test.files {
			path := filepath.Join(dir, "machines", f)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := memberLost(dir, rec, 0); got != test.want {
			t.Errorf("%s: joins %v, want %v", name, got, test.want)
		}
	}
	rec.Cluster.EtcdServers = []string{"https://192.0.2.1:2379"}
	if memberLost(t.TempDir(), rec, 0) {
		t.Error("an etcd elsewhere is joined")
	}
}

func TestOnlySilentControlPlanesAreFencedAndOnlyWhileAnotherServes(t *testing.T) {
	for name, test := range map[string]struct {
		states map[string]lifeline.State
		want   []string
	}{
		"all serve":                {map[string]lifeline.State{"a": lifeline.Serving, "b": lifeline.Serving}, nil},
		"one stands still":         {map[string]lifeline.State{"a": lifeline.Silent, "b": lifeline.Serving, "c": lifeline.Serving}, []string{"a"}},
		"one is dead":              {map[string]lifeline.State{"a": lifeline.Gone, "b": lifeline.Serving}, nil},
		"one has no majority":      {map[string]lifeline.State{"a": lifeline.Away, "b": lifeline.Serving}, nil},
		"all stand still":          {map[string]lifeline.State{"a": lifeline.Silent, "b": lifeline.Silent}, nil},
		"the others do not serve":  {map[string]lifeline.State{"a": lifeline.Silent, "b": lifeline.Away, "c": lifeline.Gone}, nil},
		"two stand still, one not": {map[string]lifeline.State{"a": lifeline.Silent, "b": lifeline.Silent, "c": lifeline.Serving}, []string{"a", "b"}},
	} {
		if got := fenced(test.states); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestWhoIsSilentBesideOneThatServesIsFencedAfterAWhile(t *testing.T) {
	now, since := time.Now(), map[string]time.Time{}
	for i, step := range []struct {
		after time.Duration
		names []string
		due   []string
		again time.Duration
	}{
		{0, nil, nil, 0},
		{0, []string{"a"}, nil, fencePatience},
		{fencePatience / 2, []string{"a", "b"}, nil, fencePatience / 2},
		{fencePatience / 2, []string{"a", "b"}, []string{"a"}, fencePatience / 2},
		{fencePatience, []string{"b"}, []string{"b"}, fenceEvery},
		// It was heard meanwhile: the time begins anew.
		{0, []string{"a"}, nil, fencePatience},
		{fencePatience, nil, nil, 0},
	} {
		now = now.Add(step.after)
		due, again := patient(since, step.names, now)
		if !slices.Equal(due, step.due) || again != step.again {
			t.Errorf("step %d: fenced %v, again after %v; want %v, %v", i, due, again, step.due, step.again)
		}
	}
}

func TestEndConnectionsResetsThoseOfSomeSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if n, err := endConnections(nil, port, func(uint32) bool { return false }); n != 0 || err != nil {
		t.Fatalf("nobody's: %d, %v", n, err)
	}
	if n, err := endConnections(nil, port, func(inode uint32) bool { return inode != 0 }); n != 1 || err != nil {
		t.Fatalf("the accepted one: %d, %v", n, err)
	}
	_ = client.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := client.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the client is not told: %v", err)
	}
	// The listener is none of them.
	again, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
