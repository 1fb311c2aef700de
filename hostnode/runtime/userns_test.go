package runtime

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodInUserNamespace(t *testing.T) {
	n := newNode(t).start()
	status, err := n.cri.Status(t.Context(), false)
	must(t, err)
	if !status.RuntimeHandlers[0].GetFeatures().GetUserNamespaces() {
		t.Fatal("the runtime says it has no user namespaces")
	}
	ids := []*runtimeapi.IDMapping{{ContainerId: 0, HostId: 1 << 20, Length: 1 << 16}}
	for _, c := range []struct {
		name     string
		options  *runtimeapi.NamespaceOption
		hostname string
	}{
		{"plain", &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}, "userns"},
		{"shareProcessNamespace", &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD}, "userns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.options.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
			p := n.runPod(func(config *runtimeapi.PodSandboxConfig) {
				config.Hostname = c.hostname
				config.Linux.SecurityContext.NamespaceOptions = c.options
				config.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1"}
			})
			id := p.runContainer("a", "sleep 1d", nil)
			if got := strings.Join(strings.Fields(n.exec(id, "cat /proc/self/uid_map")), " "); got != "0 1048576 65536" {
				t.Errorf("uid map: %q", got)
			}
			got := n.exec(id, "id -u; stat -c %u /bin/busybox; touch /f && stat -c %u /f; hostname; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start")
			if want := "0\n0\n0\nuserns\n1\n0"; got != want {
				t.Errorf("owners, hostname, sysctls: %q, want %q", got, want)
			}
			if c.options.Pid == runtimeapi.NamespaceMode_POD {
				if comm := n.exec(id, "cat /proc/1/comm"); comm != "pause" {
					t.Errorf("process 1 of the pod is %q", comm)
				}
			}
			n.remove(p.id)
		})
	}
}
