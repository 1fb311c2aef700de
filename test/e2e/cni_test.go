package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// referencePlugins are upstream's, of the version that this repository has.
var referencePlugins = []string{"main/bridge", "ipam/host-local", "main/loopback", "meta/portmap"}

var _ = Describe("disableDefaultCNI", Ordered, func() {
	var c cluster
	worker := "e2e-cni-worker"
	ready := func(node string) string {
		return c.get("node/"+node, `{.status.conditions[?(@.type=="Ready")].status}`)
	}

	BeforeAll(func() {
		var r result
		c, r = create("e2e-cni", `
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {disableDefaultCNI: true}
nodes: [{role: control-plane}, {role: worker}]
`)
		r.must()
		Expect(r.errOut).To(ContainSubstring("CNI"))
	})
	AfterAll(func() { c.delete().must() })

	It("leaves nodes NotReady, and says why", func() {
		Eventually(func() string {
			return c.get("node/"+worker, `{.status.conditions[?(@.type=="Ready")].message}`)
		}).Should(ContainSubstring("cni plugin not initialized"))
		Expect(ready(worker)).To(Equal("False"))
	})

	It("runs pods on a node where the reference plugins are installed", func() {
		bin := GinkgoT().TempDir()
		for _, p := range referencePlugins {
			build := exec.Command("go", "build", "-o", bin+"/", "github.com/containernetworking/plugins/plugins/"+p)
			build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
			out, err := build.CombinedOutput()
			Expect(err).NotTo(HaveOccurred(), string(out))
		}
		for _, node := range []string{"e2e-cni-control-plane", worker} {
			for _, p := range referencePlugins {
				put(node, filepath.Join("/opt/cni/bin", filepath.Base(p)), read(filepath.Join(bin, filepath.Base(p))))
			}
			cidr := c.get("node/"+node, "{.spec.podCIDR}")
			put(node, "/etc/cni/net.d/10-reference.conflist", fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": "reference",
  "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`, cidr))
			Eventually(func() string { return ready(node) }).WithTimeout(time.Minute).Should(Equal("True"))
		}
		c.apply(netexec("a", "e2e-cni-control-plane", "") + netexec("b", worker, "")).must()
		c.kubectl("wait", "pod", "--all", "--for=condition=Ready", "--timeout=60s").must()
		b := c.get("pod/b", "{.status.podIP}")
		prefix := c.get("node/"+worker, "{.spec.podCIDR}")
		Expect(b).To(HavePrefix(strings.TrimSuffix(prefix, "0/24")))
		Expect(c.kubectl("exec", "a", "--", "curl", "-sS", "-m", "5", url(b, "8080", "/hostname")).must()).To(Equal("b"), "from pod to pod, across nodes")
		Expect(fetch(url(b, "8080", "/hostname"))).To(Equal("b"), "from the host")
		Expect(skiff("exec", worker, "--", "ip", "link", "show", "cni0").must()).To(ContainSubstring("cni0"))
	})
})

func read(path string) string {
	data, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	return string(data)
}

// put writes an executable file in a node, and renames it into place, as
// installers of plugins do.
func put(node, path, content string) {
	GinkgoHelper()
	run(content, filepath.Join(root, "bin/skiff"), "exec", "-i", node, "--",
		"sh", "-c", fmt.Sprintf("cat > %[1]s.new && chmod 755 %[1]s.new && mv %[1]s.new %[1]s", path)).must()
}
