package runtime

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func contextForNode() context.Context { return context.Background() }

// nodeScript is what the node process does before it is killed: three pods.
func nodeScript(r *Runtime) error {
	ctx := context.Background()
	for _, c := range []struct{ name, script string }{
		{"lives", "echo first > /dev/shm/f; echo started; sleep 1d"},
		{"ends-while-away", "while ! [ -e /dev/shm/go ]; do sleep 0.05; done; echo bye; exit 7"},
		{"sandbox-dies", "sleep 1d"},
	} {
		config := podConfig(c.name, r.cfg.Root)
		id, err := r.RuntimeService().RunPodSandbox(ctx, config, "")
		if err != nil {
			return err
		}
		container, err := r.RuntimeService().CreateContainer(ctx, id, containerConfig(config, c.name, c.script), config)
		if err != nil {
			return err
		}
		if err := r.RuntimeService().StartContainer(ctx, container); err != nil {
			return err
		}
	}
	return nil
}

// startAndKill runs the script in a node process and kills that.
func (n *node) startAndKill() {
	n.tb.Helper()
	config, err := json.Marshal(n.cfg)
	must(n.tb, err)
	cmd := self("node")
	cmd.Env = append(cmd.Env, "SKIFF_RUNTIME_TEST_CONFIG="+string(config))
	log, err := os.Create(filepath.Join(filepath.Dir(n.cfg.Root), "node.log"))
	must(n.tb, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = nil, log
	out, err := cmd.StdoutPipe()
	must(n.tb, err)
	must(n.tb, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		data, _ := os.ReadFile(log.Name())
		n.tb.Fatalf("node process: %q, %v\n%s", line, err, data)
	}
	must(n.tb, cmd.Process.Kill())
	cmd.Wait()
}

func TestKilledNodeProcessLeavesContainersToTheNext(t *testing.T) {
	n := newNode(t)
	n.startAndKill()

	// While nobody is there: one container ends, and one pause dies.
	shim := n.shimPID()
	pauses := n.statePIDs()
	if len(pauses) != 3 {
		t.Fatalf("state of %d sandboxes, want 3", len(pauses))
	}
	must(t, os.WriteFile(filepath.Join(n.shmOf("ends-while-away"), "go"), nil, 0o644))
	must(t, unix.Kill(pauses["sandbox-dies"], unix.SIGKILL))
	eventually(t, "end of the container and the pause", func() error {
		if exits, _ := filepath.Glob(filepath.Join(n.cfg.State, "io.containerd.runtime.v2.task/k8s.io/*/*exit*")); len(exits) == 0 {
			return errors.New("no exit on record")
		}
		if unix.Kill(pauses["sandbox-dies"], 0) == nil {
			return errors.New("the pause lives")
		}
		return nil
	})

	n.start()
	if n.shimPID() != shim {
		t.Error("the shim is another one")
	}
	byName := map[string]*runtimeapi.PodSandbox{}
	sandboxes, err := n.cri.ListPodSandbox(t.Context(), nil)
	must(t, err)
	for _, s := range sandboxes {
		byName[s.Metadata.Name] = s
	}
	for name, want := range map[string]runtimeapi.PodSandboxState{
		"lives":           runtimeapi.PodSandboxState_SANDBOX_READY,
		"ends-while-away": runtimeapi.PodSandboxState_SANDBOX_READY,
		"sandbox-dies":    runtimeapi.PodSandboxState_SANDBOX_NOTREADY,
	} {
		if s := byName[name]; s == nil || s.State != want {
			t.Errorf("sandbox %s: %v, want %s", name, s, want)
		} else if s.CreatedAt <= 0 {
			t.Errorf("sandbox %s was created at %d", name, s.CreatedAt)
		}
	}
	containers := map[string]string{}
	list, err := n.cri.ListContainers(t.Context(), nil)
	must(t, err)
	for _, c := range list {
		containers[c.Metadata.Name] = c.Id
	}
	if s := n.status(containers["ends-while-away"]); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 7 {
		t.Errorf("container that ended while nobody was there: %s, exit code %d, want 7", s.State, s.ExitCode)
	}
	alive := containers["lives"]
	if s := n.status(alive); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("container that lives: %s", s.State)
	}
	if got := n.exec(alive, "cat /dev/shm/f"); got != "first" {
		t.Errorf("exec after adoption: %q", got)
	}

	// A container that joins the old pod now finds all of it.
	p := &pod{node: n, id: byName["lives"].Id, config: podConfig("lives", n.cfg.Root)}
	late := p.runContainer("late", "sleep 1d", nil)
	for script, want := range map[string]string{
		"cat /dev/shm/f":       "first",
		"cat /etc/hostname":    "lives",
		"hostname":             "lives",
		"cat /etc/resolv.conf": "search cluster.local\nnameserver 10.96.0.10\noptions ndots:5",
	} {
		if got := n.exec(late, script); got != want {
			t.Errorf("late container: %s: %q, want %q", script, got, want)
		}
	}
	// Exits of adopted processes are seen.
	must(t, n.cri.StopContainer(t.Context(), alive, 0))
	n.waitExit(alive)
	must(t, unix.Kill(pauses["lives"], unix.SIGKILL))
	eventually(t, "end of the adopted sandbox", func() error {
		s, err := n.cri.PodSandboxStatus(t.Context(), p.id, false)
		if err == nil && s.Status.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			err = errors.New("it is ready")
		}
		return err
	})
}

// statePIDs are the pause processes by pod name.
func (n *node) statePIDs() map[string]int {
	n.tb.Helper()
	all := map[string]int{}
	files, err := filepath.Glob(filepath.Join(n.cfg.State, "io.containerd.sandbox.controller.v1.skiff/*/state.json"))
	must(n.tb, err)
	for _, file := range files {
		var st struct {
			PID    int
			Config struct{ Hostname string }
		}
		data, err := os.ReadFile(file)
		must(n.tb, err)
		must(n.tb, json.Unmarshal(data, &st))
		all[st.Config.Hostname] = st.PID
	}
	return all
}

// shmOf is the /dev/shm of a pod, from outside.
func (n *node) shmOf(pod string) string {
	n.tb.Helper()
	files, err := filepath.Glob(filepath.Join(n.cfg.State, "io.containerd.sandbox.controller.v1.skiff/*/state.json"))
	must(n.tb, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(n.tb, err)
		if strings.Contains(string(data), fmt.Sprintf("%q", pod)) {
			return filepath.Join(filepath.Dir(file), "shm")
		}
	}
	n.tb.Fatalf("no pod %s", pod)
	return ""
}

func TestRebootedNodeFindsItsPodsDead(t *testing.T) {
	n := newNode(t)
	n.run()
	p := n.runPod(nil)
	c := p.runContainer("a", "sleep 1d", nil)
	// A machine's death: all processes end, tmpfs is gone.
	pauses := n.statePIDs()
	pid := n.taskPID(c)
	n.stop()
	n.killShim()
	// What is left of containerd in this process cleans up after the shim too.
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Fatal(err)
	}
	for _, pause := range pauses {
		must(t, unix.Kill(pause, unix.SIGKILL))
		unix.Wait4(pause, nil, 0, nil) // it was this process's child
	}
	unix.Unmount(filepath.Join(n.cfg.State, "io.containerd.runtime.v2.task/k8s.io", c, "rootfs"), unix.MNT_DETACH)
	netns, _ := filepath.Glob(filepath.Join(n.cfg.State, "io.containerd.grpc.v1.cri/netns/*"))
	shms, _ := filepath.Glob(filepath.Join(n.cfg.State, "io.containerd.sandbox.controller.v1.skiff/*/shm"))
	for _, mount := range append(netns, shms...) {
		must(t, unix.Unmount(mount, unix.MNT_DETACH))
	}
	must(t, unix.Unmount(n.cfg.State, unix.MNT_DETACH))
	must(t, unix.Mount("tmpfs", n.cfg.State, "tmpfs", 0, "mode=711"))
	eventually(t, "end of the container's cgroups", func() error {
		var errs []error
		for _, hierarchy := range hierarchies() {
			if err := unix.Rmdir(filepath.Join(hierarchy, cgroup, c)); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})

	n.start()
	status, err := n.cri.PodSandboxStatus(t.Context(), p.id, false)
	must(t, err)
	if status.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("sandbox is %s", status.Status.State)
	}
	if s := n.status(c); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("container is %s", s.State)
	}
	fresh := n.runPod(nil)
	if got := n.exec(fresh.runContainer("b", "sleep 1d", nil), "echo works"); got != "works" {
		t.Errorf("new pod: %q", got)
	}
	n.remove(p.id)
	if left, _ := filepath.Glob(filepath.Join(n.cfg.Root, "*", p.id)); len(left) > 0 {
		t.Errorf("left of the old pod: %v", left)
	}
}

// taskPID is a container's process as the tests' PID namespace numbers it.
func (n *node) taskPID(container string) int {
	n.tb.Helper()
	data, err := os.ReadFile(filepath.Join(n.cfg.State, "io.containerd.runtime.v2.task/k8s.io", container, "init.pid"))
	must(n.tb, err)
	var pid int
	_, err = fmt.Sscan(string(data), &pid)
	must(n.tb, err)
	return pid
}

func TestShimDeathEndsContainersAndIsMended(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	c := p.runContainer("a", "sleep 1d", nil)
	pid := n.shimPID()
	must(t, unix.Kill(pid, unix.SIGKILL))
	if s := n.waitExit(c); s.ExitCode == 0 {
		t.Errorf("exit code %d", s.ExitCode)
	}
	eventually(t, "another shim", func() error {
		if n.shimPID() == pid {
			return errors.New("it is the dead one")
		}
		return nil
	})
	// The same pod takes new containers.
	if got := n.exec(p.runContainer("b", "sleep 1d", nil), "echo works"); got != "works" {
		t.Errorf("container after the shim's death: %q", got)
	}
}

// echo talks to an echo server on the loopback interface.
func echo(port int, word string) error {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, word); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(time.Second))
	answer := make([]byte, len(word))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if string(answer) != word {
		return fmt.Errorf("got %q", answer)
	}
	return nil
}
