package supervise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// stopCluster is one with a socket of each kind.
func stopCluster(name string) *cluster.Cluster {
	c := testCluster(name, 1)
	c.Nodes[1].ExtraPortMappings = []cluster.PortMapping{{ContainerPort: 30080, ListenAddress: "127.0.0.1", Protocol: "TCP"}}
	return c
}

// identity is what must survive a stop.
func identity(t *testing.T, name string) string {
	t.Helper()
	info := describe(t, name)
	kubeconfig, err := Kubeconfig(name, false)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintln(info.Name, info.Created, info.Endpoint, info.PodSubnet, info.ServiceSubnet, info.NodeSubnet,
		info.LoadBalancerSubnet, info.Cluster.Nodes[1].ExtraPortMappings, string(kubeconfig))
	for _, m := range info.Machines {
		text += fmt.Sprintln(m.Name, m.Role, m.IPs, m.PodCIDRs, inside(t, name, m.Name, "cat /etc/machine-id"))
	}
	return text
}

// expectStopped compares the host with how it was before the cluster.
func expectStopped(t *testing.T, p Paths, name string, before []string) {
	t.Helper()
	if left := difference(append(before, p.Cluster(name)), inventory()); len(left) > 0 {
		t.Errorf("a stopped cluster has on the host: %q", left)
	}
	if state := describe(t, name).State; state != Stopped {
		t.Errorf("state is %s", state)
	}
}

func testPaths(t *testing.T) Paths {
	t.Helper()
	p, err := DefaultPaths()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestStopLeavesTheDirectoryAndStartBringsTheSameBack(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	before := inventory()
	c := stopCluster("svt-stop")
	create(t, c)
	was := identity(t, c.Name)
	start := func(t *testing.T) {
		t.Helper()
		begin := time.Now()
		info, err := Start(t.Context(), c.Name, StartOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("started in %v", time.Since(begin))
		if info.State != Running || !serves(info) {
			t.Errorf("started cluster is %+v", info)
		}
		if got := identity(t, c.Name); got != was {
			t.Errorf("was\n%s\nis\n%s", was, got)
		}
	}
	stop := func(t *testing.T, opts StopOptions) {
		t.Helper()
		if err := Stop(t.Context(), c.Name, opts); err != nil {
			t.Fatal(err)
		}
		expectStopped(t, p, c.Name, before)
	}

	t.Run("after a stop", func(t *testing.T) {
		stop(t, StopOptions{})
		for machine, want := range map[string]string{"svt-stop-control-plane": "node pods end", "svt-stop-worker": "node pods end"} {
			if log, _ := os.ReadFile(p.Log(c.Name, machine, "node")); !strings.Contains(string(log), want) {
				t.Errorf("the node's process of %s was not asked to end its pods: %s", machine, log)
			}
		}
		start(t)
	})
	t.Run("a second stop, and commands on a stopped cluster", func(t *testing.T) {
		stop(t, StopOptions{Now: true})
		stop(t, StopOptions{})
		if err := Ensure(t.Context(), c.Name); !errors.Is(err, ErrStopped) {
			t.Errorf("Ensure: %v", err)
		}
		if err := Pause(t.Context(), c.Name); !errors.Is(err, ErrStopped) {
			t.Errorf("Pause: %v", err)
		}
		if err := KillNode(t.Context(), c.Name, "svt-stop-worker"); !errors.Is(err, ErrStopped) {
			t.Errorf("KillNode: %v", err)
		}
		start(t)
		start(t)
	})
	t.Run("what it had is nobody else's", func(t *testing.T) {
		stop(t, StopOptions{Now: true})
		info := describe(t, c.Name)
		_, port, _ := net.SplitHostPort(info.Endpoint)
		other := testCluster("svt-stop2", 0)
		if _, err := fmt.Sscan(port, &other.Networking.APIServerPort); err != nil {
			t.Fatal(err)
		}
		_, err := Create(t.Context(), CreateOptions{Cluster: other})
		if err == nil || !strings.Contains(err.Error(), "networking.apiServerPort: port "+port+` is kept by cluster "svt-stop"`) {
			t.Errorf("its port for another: %v", err)
		}
		other.Networking.APIServerPort = 0
		if got := create(t, other); got.PodSubnet == info.PodSubnet || got.ServiceSubnet == info.ServiceSubnet || got.NodeSubnet == info.NodeSubnet {
			t.Errorf("its ranges are another's: %+v", got)
		}
		if err := Delete(t.Context(), other.Name); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a port that somebody took", func(t *testing.T) {
		mapping := describe(t, c.Name).Cluster.Nodes[1].ExtraPortMappings[0]
		l, err := net.Listen("tcp", joinPort(mapping.ListenAddress, mapping.HostPort))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Start(t.Context(), c.Name, StartOptions{})
		l.Close()
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Field != "nodes[1].extraPortMappings[0].hostPort" || !strings.Contains(refusal.Help, "ss -tulnp") {
			t.Errorf("have %v", err)
		}
		expectStopped(t, p, c.Name, before)
		start(t)
	})
	t.Run("after the death of all processes, and of all else", func(t *testing.T) {
		layout, err := namespaces.Layout()
		if err != nil {
			t.Fatal(err)
		}
		if err := layout.Kill(t.Context(), cgroup(c.Name)); err != nil {
			t.Fatal(err)
		}
		start(t)
		rebootHost(t, p, c.Name)
		expectStopped(t, p, c.Name, before)
		start(t)
	})
	t.Run("restart", func(t *testing.T) {
		was := pids(describe(t, c.Name))
		info, err := Restart(t.Context(), c.Name, StopOptions{}, StartOptions{})
		if err != nil || !serves(info) || fmt.Sprint(pids(info)) == fmt.Sprint(was) {
			t.Errorf("machines were %v, are %v, %v", was, pids(info), err)
		}
	})
}

// rebootHost ends a cluster as a reboot of the host does.
func rebootHost(t *testing.T, p Paths, name string) {
	t.Helper()
	layout, err := namespaces.Layout()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := p.readRecord(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.newFabric(rec)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(layout.Remove(t.Context(), cgroup(name)), f.Remove(t.Context()), unmountBelow(p.Run(name)), os.RemoveAll(p.RunDir)); err != nil {
		t.Fatal(err)
	}
	layout.RemoveEmpty("skiff")
}

func TestAStoppedClusterLeavesResolvConfToOthers(t *testing.T) {
	needRoot(t)
	const conf = "# mine\nsearch example.com\n"
	_, read := moveEtc(t, conf)
	p := testPaths(t)
	c := testCluster("svt-stopdns", 0)
	create(t, c)
	rec, err := p.readRecord(c.Name)
	if err != nil {
		t.Fatal(err)
	}
	// The stand-in of the control plane answers no DNS, so a create with
	// hostDNS would wait.
	if err := p.ensureHostDNS(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if read() == conf {
		t.Fatal("resolv.conf has no line of the cluster")
	}
	if err := Stop(t.Context(), c.Name, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if read() != conf {
		t.Errorf("resolv.conf came back as %q", read())
	}
	// As after a reboot of the host: the lines are there, the cluster is not.
	if err := p.ensureHostDNS(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), c.Name, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if read() != conf {
		t.Errorf("after a start without the wish, resolv.conf is %q", read())
	}
}

func TestAPausedClusterStandsStillAndCanBeStoppedAndDeleted(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	before := inventory()
	c := testCluster("svt-pause", 1)
	info := create(t, c)
	pause := func() {
		t.Helper()
		if err := Pause(t.Context(), c.Name); err != nil {
			t.Fatal(err)
		}
		if state := describe(t, c.Name).State; state != Paused || serves(info) {
			t.Errorf("paused cluster is %s", state)
		}
	}
	pause()
	pause() // is fine
	if _, err := Start(t.Context(), c.Name, StartOptions{}); !errors.Is(err, ErrPaused) {
		t.Errorf("start: %v", err)
	}
	if _, err := Exec(t.Context(), c.Name, "", []string{"true"}, Streams{os.Stdin, os.Stdout, os.Stderr}, false); !errors.Is(err, ErrPaused) {
		t.Errorf("exec: %v", err)
	}
	if err := KillNode(t.Context(), c.Name, "svt-pause-worker"); !errors.Is(err, ErrPaused) {
		t.Errorf("kill node: %v", err)
	}
	for range 2 { // the second is fine
		if err := Unpause(t.Context(), c.Name); err != nil {
			t.Fatal(err)
		}
		if state := describe(t, c.Name).State; state != Running || !serves(info) {
			t.Errorf("unpaused cluster is %s", state)
		}
	}
	pause()
	if err := Stop(t.Context(), c.Name, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if log, _ := os.ReadFile(p.Log(c.Name, "svt-pause-worker", "node")); !strings.Contains(string(log), "node pods end") {
		t.Errorf("the node's process was not asked to end its pods: %s", log)
	}
	expectStopped(t, p, c.Name, before)
	if _, err := Start(t.Context(), c.Name, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	pause()
	if err := Delete(t.Context(), c.Name); err != nil {
		t.Fatal(err)
	}
	if left := difference(before, inventory()); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestAStopOrStartMayBeKilledAtAnyStep(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	before := inventory()
	c := stopCluster("svt-killed")
	create(t, c)
	was := identity(t, c.Name)
	for ms := 0; ms <= 120; ms += 5 * slow {
		for _, verb := range []string{"stop", "stop-now", "start"} {
			cmd := exec.Command("/proc/self/exe", verb, c.Name)
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			kill := time.AfterFunc(time.Duration(ms)*time.Millisecond, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
			_ = cmd.Wait() // killed, or faster
			kill.Stop()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			switch (ms / (5 * slow)) % 2 {
			case 0:
				if err := Stop(ctx, c.Name, StopOptions{}); err != nil {
					t.Fatalf("%s killed after %d ms: stop: %v", verb, ms, err)
				}
				expectStopped(t, p, c.Name, before)
			case 1:
				info, err := Start(ctx, c.Name, StartOptions{})
				if err != nil {
					t.Fatalf("%s killed after %d ms: start: %v", verb, ms, err)
				}
				if got := identity(t, c.Name); got != was || !serves(info) {
					t.Fatalf("%s killed after %d ms: was\n%s\nis\n%s", verb, ms, was, got)
				}
			}
			cancel()
		}
	}
	cmd := exec.Command("/proc/self/exe", "start", c.Name)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := Delete(t.Context(), c.Name); err != nil {
		t.Fatal(err)
	}
	if left := difference(before, inventory()); len(left) > 0 {
		t.Errorf("left behind by delete: %q", left)
	}
}

func TestANewerSchemaIsRefusedBeforeAnythingIsTouched(t *testing.T) {
	needRoot(t)
	p := testPaths(t)
	const name = "svt-newer"
	t.Cleanup(func() { os.RemoveAll(p.Cluster(name)) })
	content := fmt.Sprintf(`{"schema": %d, "cluster": ["what a newer one has"], "machines": 7}`, schema+1)
	if err := writeFile(p.record(name), []byte(content)); err != nil {
		t.Fatal(err)
	}
	before := inventory()
	for verb, do := range map[string]func() error{
		"start":   func() error { _, err := Start(t.Context(), name, StartOptions{}); return err },
		"restart": func() error { _, err := Restart(t.Context(), name, StopOptions{}, StartOptions{}); return err },
		"stop":    func() error { return Stop(t.Context(), name, StopOptions{}) },
		"pause":   func() error { return Pause(t.Context(), name) },
		"ensure":  func() error { return Ensure(t.Context(), name) },
		"get":     func() error { _, err := Get(t.Context(), name); return err },
		"create":  func() error { _, err := Create(t.Context(), CreateOptions{Cluster: testCluster(name, 0)}); return err },
		"delete":  func() error { return Delete(t.Context(), name) },
	} {
		var refusal *Refusal
		if err := do(); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "newer skiff") || !strings.Contains(refusal.Help, "newer one") {
			t.Errorf("%s: %v", verb, err)
		}
		if got, err := os.ReadFile(p.record(name)); string(got) != content || err != nil {
			t.Errorf("%s: the directory has %q, %v", verb, got, err)
		}
		if d := append(difference(before, inventory()), difference(inventory(), before)...); len(d) > 0 {
			t.Errorf("%s changed %q", verb, d)
		}
	}
}

func TestWhoKeepsAPort(t *testing.T) {
	rec := plannedRecord(t) // 127.0.0.1:40000, and 127.0.0.1:8080 of its worker
	for address, want := range map[string]string{
		"127.0.0.1:40000": "dev", "127.0.0.1:8080": "dev", "0.0.0.0:8080": "dev",
		"127.0.0.2:8080": "", "127.0.0.1:8081": "", "127.0.0.1:0": "",
	} {
		if got := ownerOf(socket{network: "tcp", address: address}, []*record{rec}); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
	if got := ownerOf(socket{network: "udp", address: "127.0.0.1:8080"}, []*record{rec}); got != "" {
		t.Errorf("another protocol: %q", got)
	}
}
