package runtime

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
)

func TestPodUpAndDown(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	sandbox, err := n.cri.PodSandboxStatus(t.Context(), p.id, false)
	must(t, err)
	if sandbox.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("sandbox is %s", sandbox.Status.State)
	}
	c := p.runContainer("main", "echo hello; echo oops >&2; trap 'exit 3' TERM; while :; do sleep 0.1; done", nil)

	for script, want := range map[string]string{
		"hostname":             "pod-1",
		"cat /etc/hostname":    "pod-1",
		"cat /etc/resolv.conf": "search cluster.local\nnameserver 10.96.0.10\noptions ndots:5",
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start":   "0",
		"cat /proc/sys/net/ipv4/ping_group_range":             "0\t2147483647",
		"stat -c %a /dev/shm":                                 "1777",
		"df -k /dev/shm | while read a b c; do echo $b; done": "1K-blocks\n65536",
		"cat /proc/1/comm":                                    "sh",
	} {
		if got := n.exec(c, script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if hosts := n.exec(c, "cat /etc/hosts"); !strings.Contains(hosts, "localhost") {
		t.Errorf("/etc/hosts: %q", hosts)
	}
	_, _, err = n.cri.ExecSync(t.Context(), c, []string{"sh", "-c", "exit 4"}, time.Second)
	if err == nil || !strings.Contains(err.Error(), "exited with 4") {
		t.Errorf("exec of exit 4: %v", err)
	}
	_, _, err = n.cri.ExecSync(t.Context(), c, []string{"sleep", "60"}, time.Second)
	if err == nil || !strings.Contains(err.Error(), "timed out") {
		t.Errorf("exec that takes too long: %v", err)
	}

	must(t, n.cri.StopContainer(t.Context(), c, 10))
	if s := n.waitExit(c); s.ExitCode != 3 {
		t.Errorf("exit code %d, want 3", s.ExitCode)
	}
	log, err := os.ReadFile(filepath.Join(p.config.LogDirectory, "main.log"))
	must(t, err)
	for _, want := range []string{" stdout F hello\n", " stderr F oops\n"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("log lacks %q:\n%s", want, log)
		}
	}
	must(t, n.cri.RemoveContainer(t.Context(), c))
	n.remove(p.id)
	sandboxes, err := n.cri.ListPodSandbox(t.Context(), nil)
	must(t, err)
	if len(sandboxes) > 0 {
		t.Errorf("sandboxes after removal: %v", sandboxes)
	}
	for _, pattern := range []string{"*/sandboxes/*", "*sandbox.controller.v1.skiff/*", "*/containers/*", "*/netns/*"} {
		for _, dir := range []string{n.cfg.Root, n.cfg.State} {
			if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) > 0 {
				t.Errorf("left after removal: %v", left)
			}
		}
	}
}

func TestPodNamespaces(t *testing.T) {
	n := newNode(t).start()
	node := func(ns string) string {
		link, err := os.Readlink("/proc/self/ns/" + ns)
		must(t, err)
		return link
	}
	for _, c := range []struct {
		name    string
		options *runtimeapi.NamespaceOption
		shared  []string // with the node
		between []string // the containers of the pod
	}{
		{"plain", &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}, nil, []string{"net", "ipc", "uts"}},
		{"shareProcessNamespace", &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD}, nil, []string{"net", "ipc", "uts", "pid"}},
		{"hostNetwork", &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}, []string{"net", "uts"}, []string{"ipc"}},
		{"hostPID", &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_NODE}, []string{"pid"}, []string{"net", "ipc", "uts"}},
		{"hostIPC", &runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}, []string{"ipc"}, []string{"net", "uts"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := n.runPod(func(config *runtimeapi.PodSandboxConfig) {
				config.Linux.SecurityContext.NamespaceOptions = c.options
			})
			a := p.runContainer("a", "sleep 1d", nil)
			b := p.runContainer("b", "sleep 1d", nil)
			for _, ns := range []string{"net", "ipc", "uts", "pid"} {
				inA, inB := n.exec(a, "readlink /proc/self/ns/"+ns), n.exec(b, "readlink /proc/self/ns/"+ns)
				isShared, isBetween := contains(c.shared, ns), contains(c.between, ns)
				if (inA == node(ns)) != isShared {
					t.Errorf("%s is the node's: %t, want %t", ns, !isShared, isShared)
				}
				if (inA == inB) != (isShared || isBetween) {
					t.Errorf("%s is common to the containers: %t", ns, inA == inB)
				}
			}
			// The kubelet relies on the pause to reap what containers orphan.
			if c.options.Pid == runtimeapi.NamespaceMode_POD {
				if comm := n.exec(a, "cat /proc/1/comm"); comm != "pause" {
					t.Errorf("process 1 of the pod is %q", comm)
				}
				n.exec(a, "sh -c 'sleep 0.05 & exit 0'; sleep 0.2; ! cat /proc/[0-9]*/stat | grep ' Z '")
			}
			n.remove(p.id)
		})
	}
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

func TestPodSysctls(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(func(config *runtimeapi.PodSandboxConfig) {
		config.Linux.Sysctls = map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "100",
			"kernel.shm_rmid_forced":              "1",
			"net/ipv4/conf/lo/arp_filter":         "1",
		}
	})
	c := p.runContainer("a", "sleep 1d", nil)
	for file, want := range map[string]string{
		"net/ipv4/ip_unprivileged_port_start": "100", "kernel/shm_rmid_forced": "1", "net/ipv4/conf/lo/arp_filter": "1",
	} {
		if got := n.exec(c, "cat /proc/sys/"+file); got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	// The node's own are as before.
	if data, _ := os.ReadFile("/proc/sys/kernel/shm_rmid_forced"); string(bytes.TrimSpace(data)) != "0" {
		t.Errorf("the node's kernel.shm_rmid_forced: %s", data)
	}
	_, err := n.cri.RunPodSandbox(t.Context(), func() *runtimeapi.PodSandboxConfig {
		config := podConfig("bad", n.cfg.Root)
		config.Linux.Sysctls = map[string]string{"net.ipv4.no_such_thing": "1"}
		return config
	}(), "")
	if err == nil || !strings.Contains(err.Error(), "/proc/sys/net/ipv4/no_such_thing") {
		t.Errorf("unknown sysctl: %v", err)
	}
	sandboxes, err := n.cri.ListPodSandbox(t.Context(), nil)
	must(t, err)
	if len(sandboxes) != 1 {
		t.Errorf("a sandbox that did not start is listed: %v", sandboxes)
	}
}

func TestContainersShareShm(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	a, b := p.runContainer("a", "sleep 1d", nil), p.runContainer("b", "sleep 1d", nil)
	n.exec(a, "echo x > /dev/shm/f")
	if got := n.exec(b, "cat /dev/shm/f"); got != "x" {
		t.Errorf("/dev/shm/f in the other container: %q", got)
	}
}

func TestCapabilityTheHostLacksIsLeftOut(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	c := p.runContainer("a", "sleep 1d", func(config *runtimeapi.ContainerConfig) {
		config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN", "SYS_RESOURCE"}}
	})
	if s := n.status(c); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("container is %s: %s", s.State, s.Message)
	}
	for name, want := range map[string]bool{"NET_ADMIN": true, "CAP_NET_ADMIN": true, "ALL": true, "NO_SUCH": true} {
		if got := n.r.service.hasCapability(name); got != want {
			t.Errorf("capability %s: %t, want %t", name, got, want)
		}
	}
	p = n.runPod(func(config *runtimeapi.PodSandboxConfig) { config.Linux.SecurityContext.Privileged = true })
	privileged := p.runContainer("b", "sleep 1d", func(config *runtimeapi.ContainerConfig) {
		config.Linux.SecurityContext.Privileged = true
	})
	n.exec(privileged, "touch /proc/sys/kernel/hostname")
}

func TestEvents(t *testing.T) {
	n := newNode(t).start()
	ctx, cancel := context.WithCancel(t.Context())
	events, ended := make(chan *runtimeapi.ContainerEventResponse), make(chan error, 1)
	established := make(chan struct{})
	go func() {
		defer close(events)
		ended <- n.cri.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) { close(established) })
	}()
	<-established
	p := n.runPod(nil)
	c := p.runContainer("a", "exit 5", nil)
	deadline := time.After(10 * time.Second)
	for {
		select {
		case event := <-events:
			if event.ContainerId != c || event.ContainerEventType != runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
				continue
			}
			if len(event.ContainersStatuses) != 1 || event.ContainersStatuses[0].ExitCode != 5 {
				t.Errorf("event: %v", event)
			}
		case <-deadline:
			t.Fatal("no event of the container's end")
		}
		break
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the stream ended without an error")
	}
}

func TestStreams(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	c := p.runContainer("a", "while :; do nc -l -p 80 -e cat; done", func(config *runtimeapi.ContainerConfig) {
		config.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000} // port 80 all the same
	})
	response, err := n.cri.Exec(t.Context(), &runtimeapi.ExecRequest{
		ContainerId: c, Cmd: []string{"cat"}, Stdin: true, Stdout: true, Stderr: true,
	})
	must(t, err)
	where, err := url.Parse(response.Url)
	must(t, err)
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, where)
	must(t, err)
	var stdout bytes.Buffer
	must(t, executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{
		Stdin: strings.NewReader("through and back"), Stdout: &stdout, Stderr: os.Stderr,
	}))
	if stdout.String() != "through and back" {
		t.Errorf("exec cat: %q", stdout.String())
	}

	forward, err := n.cri.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: p.id, Port: []int32{80}})
	must(t, err)
	where, err = url.Parse(forward.Url)
	must(t, err)
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	must(t, err)
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, where),
		[]string{"0:80"}, stop, ready, nil, os.Stderr)
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := forwarder.GetPorts()
	must(t, err)
	eventually(t, "the pod's server", func() error {
		// 0050 is port 80, 0A a listener.
		_, _, err := n.cri.ExecSync(t.Context(), c, []string{"grep", ":0050 .* 0A ", "/proc/net/tcp", "/proc/net/tcp6"}, time.Second)
		return err
	})
	eventually(t, "echo through the forwarded port", func() error { return echo(int(ports[0].Local), "hello") })
	close(stop)
	must(t, <-done)
}

func TestHookNetworkNoticesAnotherUpstream(t *testing.T) {
	type changed struct {
		cri
		RuntimeServiceServer any
	}
	for name, upstream := range map[string]cri{
		"another structure": changed{},
		"another field":     changed{RuntimeServiceServer: &struct{ netPlugin map[string]int }{}},
	} {
		if err := hookNetwork(upstream, loopbackOnly{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSeccompDefault(t *testing.T) {
	for profile, want := range map[bool]string{false: "Seccomp:\t0", true: "Seccomp:\t2"} {
		n := newNode(t)
		n.cfg.SeccompDefault = profile
		n.run()
		p := n.runPod(nil)
		c := p.runContainer("a", "grep ^Seccomp: /proc/self/status; exit 0", nil)
		n.waitExit(c)
		log, err := os.ReadFile(filepath.Join(p.config.LogDirectory, "a.log"))
		must(t, err)
		if !strings.Contains(string(log), want) {
			t.Errorf("SeccompDefault %t: %q, want %q", profile, log, want)
		}
		n.removeAll()
		n.stop()
		n.killShim()
	}
}

func TestSocketServesTheSame(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	remote, err := criclient.NewRemoteRuntimeServiceBuilder().
		WithEndpoint("unix://" + n.cfg.Socket).WithConnectionTimeout(10 * time.Second).WithUseStreaming(true).Build(t.Context())
	must(t, err)
	defer remote.Close(t.Context())
	sandboxes, err := remote.ListPodSandbox(t.Context(), nil)
	must(t, err)
	if len(sandboxes) != 1 || sandboxes[0].Id != p.id {
		t.Errorf("sandboxes on the socket: %v", sandboxes)
	}
	// Errors are the same ones, so that the kubelet takes them alike.
	_, overSocket := remote.ContainerStatus(t.Context(), "none", false)
	_, inProcess := n.cri.ContainerStatus(t.Context(), "none", false)
	if status.Code(overSocket) != codes.NotFound || status.Code(inProcess) != codes.NotFound || overSocket.Error() != inProcess.Error() {
		t.Errorf("unknown container: over the socket %v, in the process %v", overSocket, inProcess)
	}
	images, err := criclient.NewRemoteImageServiceBuilder().
		WithEndpoint("unix://" + n.cfg.Socket).WithConnectionTimeout(10 * time.Second).WithUseStreaming(true).Build(t.Context())
	must(t, err)
	defer images.Close(t.Context())
	all, err := images.ListImages(t.Context(), nil)
	must(t, err)
	if len(all) != 1 {
		t.Errorf("images on the socket: %v", all)
	}
}
