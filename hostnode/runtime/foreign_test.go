package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// networkReady is the CRI's condition of that name.
func (n *node) networkReady() (bool, string) {
	n.tb.Helper()
	status, err := n.cri.Status(n.tb.Context(), false)
	must(n.tb, err)
	for _, c := range status.Status.Conditions {
		if c.Type == runtimeapi.NetworkReady {
			return c.Status, c.Message
		}
	}
	n.tb.Fatal("no condition NetworkReady")
	return false, ""
}

// TestPodNetworkOfTheReferencePlugins leaves pods to upstream's plugins.
func TestPodNetworkOfTheReferencePlugins(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	n.cfg.CNIConfDir, n.cfg.CNIBinDir = dir+"/net.d", dir+"/bin"
	const module = "github.com/containernetworking/plugins/plugins/"
	build := exec.Command("go", "build", "-o", n.cfg.CNIBinDir+"/", module+"main/bridge", module+"ipam/host-local")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the reference plugins: %v\n%s", err, out)
	}
	n.start()
	if ready, message := n.networkReady(); ready || !strings.Contains(message, "cni plugin not initialized") {
		t.Errorf("without a configuration: ready %t, %q", ready, message)
	}

	conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "reference", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "100.90.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`, dir+"/ipam")
	file := filepath.Join(n.cfg.CNIConfDir, "10-reference.conflist")
	must(t, os.WriteFile(file+".new", []byte(conf), 0o644))
	must(t, os.Rename(file+".new", file))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ready, message := n.networkReady()
		if ready {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with a configuration: %s", message)
		}
	}

	p := n.runPod(nil)
	sandbox, err := n.cri.PodSandboxStatus(t.Context(), p.id, false)
	must(t, err)
	ip := sandbox.Status.Network.GetIp()
	if !strings.HasPrefix(ip, "100.90.1.") {
		t.Errorf("the pod has address %q, want one of the plugin's", ip)
	}
	c := p.runContainer("main", "while :; do sleep 1; done", nil)
	if got := n.exec(c, "ip -4 addr show eth0"); !strings.Contains(got, ip+"/24") {
		t.Errorf("inside the pod: %s", got)
	}
	// The gateway is the bridge in the node.
	if got := n.exec(c, "ping -c 1 -W 2 100.90.1.1 >/dev/null && echo reached"); got != "reached" {
		t.Errorf("the node from the pod: %q", got)
	}
	n.remove(p.id)
	if left, _ := filepath.Glob(dir + "/ipam/reference/100.*"); len(left) > 0 {
		t.Errorf("addresses left after removal: %v", left)
	}
	bridge := exec.Command("ip", "link", "delete", "cni0")
	if out, err := bridge.CombinedOutput(); err != nil {
		t.Errorf("remove the bridge: %v: %s", err, out)
	}
}

func TestTwoPodNetworksAreRefused(t *testing.T) {
	for name, cfg := range map[string]Config{
		"a network and a directory":    {CNI: loopbackOnly{}, CNIConfDir: "/etc/cni/net.d", CNIBinDir: "/opt/cni/bin"},
		"a directory without programs": {CNIConfDir: "/etc/cni/net.d"},
	} {
		cfg.Root, cfg.State, cfg.LibexecDir = "/root", "/state", "/libexec"
		if err := cfg.check(); err == nil || !strings.Contains(err.Error(), "CNI") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
