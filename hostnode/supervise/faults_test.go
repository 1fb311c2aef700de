package supervise

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// eventually waits for something that another process does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not even after a minute: %s", what)
		}
	}
}

func describe(t *testing.T, name string) *Info {
	t.Helper()
	info, err := Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// pids of a cluster's machines by name.
func pids(info *Info) map[string]int {
	m := map[string]int{}
	for _, mi := range info.Machines {
		m[mi.Name] = mi.PID
	}
	return m
}

func statePID(t *testing.T, path string) int {
	t.Helper()
	proc, _, err := findProcess(path)
	if err != nil {
		return 0
	}
	defer proc.Close()
	return proc.PID
}

// serves asks the control plane's stand-in on the host's endpoint.
func serves(info *Info) bool {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the certificate is Create's concern
	response, err := client.Get("https://" + info.Endpoint)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func TestAnyProcessMayDie(t *testing.T) {
	needRoot(t)
	p, err := DefaultPaths()
	if err != nil {
		t.Fatal(err)
	}
	c := testCluster("svt-faults", 1)
	before := create(t, c)
	kill := func(t *testing.T, pid int) { // never another's process
		t.Helper()
		if pid <= 1 {
			t.Fatalf("process %d", pid)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	same := func(t *testing.T) {
		t.Helper()
		if got := pids(describe(t, c.Name)); fmt.Sprint(got) != fmt.Sprint(pids(before)) {
			t.Errorf("machines were %v, are %v", pids(before), got)
		}
	}
	supervisor := func() int { return statePID(t, p.supervisorState(c.Name)) }
	watcher := func() int { return statePID(t, p.watcherState(c.Name)) }
	answers := func() bool {
		list, err := Machines(t.Context(), c.Name)
		return err == nil && len(list) == 2 && !slices.ContainsFunc(list, func(m MachineStatus) bool { return m.PID == 0 })
	}
	eventually(t, "a watcher", func() bool { return watcher() != 0 })

	t.Run("the supervisor", func(t *testing.T) {
		old := supervisor()
		kill(t, old)
		eventually(t, "another supervisor", func() bool { s := supervisor(); return s != 0 && s != old && answers() })
		same(t)
	})
	t.Run("the watcher", func(t *testing.T) {
		old, sup := watcher(), supervisor()
		kill(t, old)
		eventually(t, "another watcher", func() bool { w := watcher(); return w != 0 && w != old })
		if supervisor() != sup {
			t.Error("the supervisor died with its watcher")
		}
		same(t)
	})
	t.Run("both, and a command brings them back", func(t *testing.T) {
		sup := supervisor()
		kill(t, watcher())
		kill(t, sup)
		eventually(t, "both dead", func() bool { return watcher() == 0 && supervisor() == 0 })
		if !serves(before) {
			t.Error("the machines stopped serving")
		}
		if state := describe(t, c.Name).State; state != Degraded {
			t.Errorf("state is %s", state)
		}
		if err := Ensure(t.Context(), c.Name); err != nil {
			t.Fatal(err)
		}
		if !answers() || describe(t, c.Name).State != Running {
			t.Errorf("after Ensure: %+v", describe(t, c.Name))
		}
		same(t)
	})
	t.Run("a service", func(t *testing.T) {
		cp := describe(t, c.Name).Machines[0]
		service := childNamed(t, cp.PID, "control-plane")
		kill(t, service)
		eventually(t, "the service again", func() bool {
			again := childNamed(t, cp.PID, "control-plane")
			return again != 0 && again != service && serves(before)
		})
		same(t)
	})
	t.Run("process 1, under a supervisor that did not start it", func(t *testing.T) {
		cp := describe(t, c.Name).Machines[0]
		layout, err := namespaces.Layout()
		if err != nil {
			t.Fatal(err)
		}
		all, err := layout.Processes(machineCgroup(c.Name, cp.Name))
		if err != nil || len(all) < 4 {
			t.Fatalf("processes of the machine: %v, %v", all, err)
		}
		kill(t, cp.PID)
		eventually(t, "every process of the machine gone", func() bool {
			return !slices.ContainsFunc(all, func(pid int) bool {
				proc, err := namespaces.Find(pid, 0) // a zombie has ended
				if err == nil {
					proc.Close()
				}
				return err == nil
			})
		})
		eventually(t, "the machine again, on the same port", func() bool {
			now := describe(t, c.Name).Machines[0]
			return now.PID != 0 && now.PID != cp.PID && serves(before)
		})
		if list, err := Machines(t.Context(), c.Name); err != nil || list[0].Restarts != 1 {
			t.Errorf("restarts: %+v, %v", list, err)
		}
	})
	t.Run("a machine that is killed on demand", func(t *testing.T) {
		worker := describe(t, c.Name).Machines[1]
		if err := KillNode(t.Context(), c.Name, worker.Name); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the machine again", func() bool {
			now := describe(t, c.Name).Machines[1]
			return now.PID != 0 && now.PID != worker.PID
		})
	})
	t.Run("everything, and delete", func(t *testing.T) {
		layout, err := namespaces.Layout()
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "nothing runs", func() bool {
			all, err := layout.Processes(cgroup(c.Name))
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range all {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return len(all) == 0
		})
		if err := Delete(t.Context(), c.Name); err != nil {
			t.Fatal(err)
		}
		if err := Delete(t.Context(), c.Name); !errors.Is(err, ErrNotFound) {
			t.Errorf("a second delete: %v", err)
		}
	})
}

// childNamed finds the child of a process that runs with the given argument.
func childNamed(t *testing.T, parent int, argument string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return 0
	}
	for _, child := range strings.Fields(string(data)) {
		cmdline, _ := os.ReadFile("/proc/" + child + "/cmdline")
		if slices.Contains(strings.Split(string(cmdline), "\x00"), argument) {
			var pid int
			fmt.Sscan(child, &pid)
			return pid
		}
	}
	return 0
}

func TestAnInterruptedCreateLeavesNothing(t *testing.T) {
	needRoot(t)
	for ms := 0; ms <= 90; ms += 6 {
		before := inventory()
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(ms)*time.Millisecond)
		_, err := Create(ctx, CreateOptions{Cluster: testCluster("svt-cut", 2)})
		cancel()
		if err == nil {
			if err := Delete(t.Context(), "svt-cut"); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "undo") {
			t.Errorf("cut after %d ms: %v", ms, err)
		}
		if left := difference(before, inventory()); len(left) > 0 {
			t.Fatalf("cut after %d ms, left behind: %q", ms, left)
		}
	}
}

func TestCreateAfterAKilledCreate(t *testing.T) {
	needRoot(t)
	p, err := DefaultPaths()
	if err != nil {
		t.Fatal(err)
	}
	before := inventory()
	// As far as a create gets before it publishes.
	rec, sockets, err := p.reserve(t.Context(), testCluster("svt-half", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	closeAll(sockets)
	if err := p.lay(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if names, err := Names(t.Context()); err != nil || !slices.Contains(names, "svt-half") {
		t.Errorf("names: %v, %v", names, err)
	}
	// Its ranges are taken, for others.
	other := testCluster("svt-half2", 0)
	if err := p.chooseRanges(other); err != nil {
		t.Fatal(err)
	}
	if other.Networking.PodSubnet == rec.Cluster.Networking.PodSubnet {
		t.Errorf("two clusters chose %s", other.Networking.PodSubnet)
	}
	create(t, testCluster("svt-half", 0))
	if err := Delete(t.Context(), "svt-half"); err != nil {
		t.Fatal(err)
	}
	if left := difference(before, inventory()); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestTwoCommandsAtOnce(t *testing.T) {
	needRoot(t)
	type result struct {
		info *Info
		err  error
	}
	results := make(chan result, 4)
	for _, name := range []string{"svt-one", "svt-one", "svt-one", "svt-two"} {
		t.Cleanup(func() {
			if err := Delete(context.Background(), name); err != nil && !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
		})
		go func() {
			info, err := Create(t.Context(), CreateOptions{Cluster: testCluster(name, 0)})
			results <- result{info, err}
		}()
	}
	made := map[string]*Info{}
	for range 4 {
		r := <-results
		switch {
		case r.err == nil && made[r.info.Name] == nil:
			made[r.info.Name] = r.info
		case r.err == nil:
			t.Errorf("%s was made twice", r.info.Name)
		case !errors.Is(r.err, ErrExists):
			t.Error(r.err)
		}
	}
	if len(made) != 2 {
		t.Fatalf("made %v", made)
	}
	if one, two := made["svt-one"], made["svt-two"]; one.PodSubnet == two.PodSubnet || one.NodeSubnet == two.NodeSubnet || one.Endpoint == two.Endpoint {
		t.Errorf("two clusters meet: %+v %+v", one, two)
	}
	list, err := List(t.Context())
	if err != nil || len(list) != 2 {
		t.Errorf("list: %+v, %v", list, err)
	}
}

func TestRefusalsMakeNothing(t *testing.T) {
	needRoot(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := int32(taken.Addr().(*net.TCPAddr).Port)
	other := create(t, testCluster("svt-other", 0))
	tests := []struct {
		name        string
		change      func(c *cluster.Cluster)
		field, help string
	}{
		{"port of the API server in use", func(c *cluster.Cluster) { c.Networking.APIServerPort = port }, "networking.apiServerPort", "choose another port"},
		{"address of another host", func(c *cluster.Cluster) { c.Networking.APIServerAddress = "192.0.2.77" }, "networking.apiServerAddress", "127.0.0.1"},
		{"port mapping in use", func(c *cluster.Cluster) {
			c.Nodes[1].ExtraPortMappings = []cluster.PortMapping{{ContainerPort: 80, HostPort: port, ListenAddress: "127.0.0.1", Protocol: "TCP"}}
		}, "nodes[1].extraPortMappings[0].hostPort", "choose another port"},
		{"missing mount source", func(c *cluster.Cluster) {
			c.Nodes[1].ExtraMounts = []cluster.Mount{{HostPath: "/no/such", ContainerPath: "/x"}}
		}, "nodes[1].extraMounts[0].hostPath", "mkdir -p /no/such"},
		{"range of another cluster", func(c *cluster.Cluster) { c.Networking.PodSubnet = other.PodSubnet }, "networking.podSubnet", "free range"},
		{"range too small", func(c *cluster.Cluster) { c.Networking.PodSubnet = "10.77.1.0/24" }, "networking.podSubnet", "larger range"},
		{"existing name", func(c *cluster.Cluster) { c.Name = "svt-other" }, "svt-other", "delete cluster"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := inventory()
			c := testCluster("svt-refused", 1)
			tt.change(c)
			_, err := Create(t.Context(), CreateOptions{Cluster: c})
			if err == nil {
				_ = Delete(t.Context(), c.Name)
				t.Fatal("it was created")
			}
			if !strings.Contains(err.Error(), tt.field) {
				t.Errorf("%v does not name %s", err, tt.field)
			}
			var mend interface{ Mend() string }
			if !errors.As(err, &mend) || !strings.Contains(mend.Mend(), tt.help) {
				t.Errorf("%v: no mend with %q", err, tt.help)
			}
			if left := difference(before, inventory()); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
	if describe(t, "svt-other").State != Running {
		t.Error("the other cluster suffered")
	}
}

func TestSocketsReachTheirService(t *testing.T) {
	needRoot(t)
	c := testCluster("svt-ports", 1)
	c.Nodes[1].ExtraPortMappings = []cluster.PortMapping{
		{ContainerPort: 30080, ListenAddress: "127.0.0.1", Protocol: "TCP"},
		{ContainerPort: 30053, ListenAddress: "127.0.0.1", Protocol: "UDP"},
	}
	info := create(t, c)
	for _, pm := range info.Cluster.Nodes[1].ExtraPortMappings {
		if pm.HostPort == 0 {
			t.Errorf("port 0 was not replaced: %+v", pm)
		}
	}
	var pid int
	eventually(t, "the service's process", func() bool {
		pid = childNamed(t, info.Machines[1].PID, "node")
		return pid != 0
	})
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	want := "SKIFF_LISTEN_FDS=port/tcp/30080/0=3,port/udp/30053/1=4"
	if !slices.Contains(strings.Split(string(env), "\x00"), want) {
		t.Errorf("environment %q has no %s", env, want)
	}
}

func TestLogsFollow(t *testing.T) {
	needRoot(t)
	c := testCluster("svt-logs", 0)
	info := create(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- Logs(ctx, LogsOptions{Cluster: c.Name, Follow: true}, w)
		w.Close()
	}()
	lines := bufio.NewScanner(r)
	want := []string{"control-plane: control-plane starts", "node: node starts", "service ended"}
	for lines.Scan() {
		want = slices.DeleteFunc(want, func(s string) bool { return strings.Contains(lines.Text(), s) })
		if node := childNamed(t, info.Machines[0].PID, "node"); len(want) == 1 && node != 0 {
			_ = syscall.Kill(node, syscall.SIGKILL)
		}
		if len(want) == 0 {
			cancel()
		}
	}
	if err := <-done; err != nil || len(want) > 0 {
		t.Errorf("missing %q, %v", want, err)
	}
}
