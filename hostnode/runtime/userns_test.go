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
	p := n.runPod(func(config *runtimeapi.PodSandboxConfig) {
		config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{
			Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids,
		}
	})
	c := p.runContainer("a", "sleep 1d", nil)
	if got := strings.Join(strings.Fields(n.exec(c, "cat /proc/self/uid_map")), " "); got != "0 1048576 65536" {
		t.Errorf("uid map: %q", got)
	}
	if got := n.exec(c, "id -u; stat -c %u /bin/busybox; touch /f && stat -c %u /f; hostname"); got != "0\n0\n0\npod-1" {
		t.Errorf("owners and hostname: %q", got)
	}
}
