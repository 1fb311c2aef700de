package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

const head = "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\n"

var _ = Describe("bad input", func() {
	DescribeTable("gets one clear error and leaves nothing behind",
		func(config string, flags []string, want ...string) {
			start, err := inventory()
			Expect(err).NotTo(HaveOccurred())
			c, r := create("bad", config, flags...)
			if r.code == 0 {
				c.delete()
			}
			Expect(r.code).NotTo(BeZero())
			for _, w := range want {
				Expect(r.errOut).To(ContainSubstring(w))
			}
			Expect(strings.Count(r.errOut, "Error")).To(Equal(1), r.errOut)
			Expect(c.kubeconfig).NotTo(BeAnExistingFile())
			expectNothingLeft(start)
		},
		Entry("unknown field", head+"nodez: []\n", nil, "nodez", "unknown field"),
		Entry("unknown nested field", head+"nodes:\n- role: worker\n  extraMount: []\n", nil, "nodes[0].extraMount"),
		Entry("wrong type", head+"nodes: three\n", nil, "nodes"),
		Entry("wrong kind", "kind: Clutter\napiVersion: skiff.cluster/v1alpha1\n", nil, "Clutter"),
		Entry("wrong version", "kind: Cluster\napiVersion: skiff.cluster/v9\n", nil, "skiff.cluster/v9"),
		Entry("not YAML", "kind: [", nil, "yaml"),
		Entry("unknown role", head+"nodes:\n- role: boss\n", nil, "nodes[0].role", "boss"),
		Entry("too many control planes", head+"nodes:\n"+strings.Repeat("- role: control-plane\n", 8), nil, "control-plane"),
		Entry("no control plane", head+"nodes:\n- role: worker\n", nil, "control-plane"),
		Entry("bad range", head+"networking: {podSubnet: 10.300.0.0/16}\n", nil, "networking.podSubnet"),
		Entry("overlapping ranges", head+"networking: {podSubnet: 10.50.0.0/16, serviceSubnet: 10.50.1.0/24}\n", nil, "networking.", "10.50"),
		Entry("a range of another cluster", head+"networking: {nodeSubnet: 172.30.0.0/16}\n", nil, "networking.nodeSubnet"),
		Entry("port out of range", head+"nodes:\n- extraPortMappings: [{containerPort: 80, hostPort: 70000}]\n", nil, "extraPortMappings[0].hostPort"),
		Entry("missing mount source", head+"nodes:\n- extraMounts: [{hostPath: /no/such/path, containerPath: /x}]\n", nil, "extraMounts[0].hostPath", "/no/such/path"),
		Entry("not a quantity", head+"nodes:\n- resources: {memory: 12Q}\n", nil, "nodes[0].resources.memory"),
		Entry("unknown feature gate", head+"featureGates: {NoSuchGate: true}\n", nil, "NoSuchGate"),
		Entry("kubeadm patches", "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nkubeadmConfigPatches: ['x: y']\n", nil, "kubeadmConfigPatches"),
		Entry("a file that is not there", "", []string{"--config", "/no/such/file.yaml"}, "/no/such/file.yaml"),
	)

	It("names a host port that is in use", func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		c, r := create("bad", fmt.Sprintf("%snodes:\n- extraPortMappings: [{containerPort: 80, hostPort: %d}]\n", head, port))
		if r.code == 0 {
			c.delete()
		}
		Expect(r.code).NotTo(BeZero())
		Expect(r.errOut).To(And(ContainSubstring("extraPortMappings[0].hostPort"), ContainSubstring(fmt.Sprint(port))))
	})

	It("refuses names that are illegal, too long or taken, and clusters that are not there", func() {
		for _, name := range []string{"UPPER", "with_underscore", "-dash", strings.Repeat("x", 64)} {
			r := skiff("create", "cluster", "--name", name)
			Expect(r.code).NotTo(BeZero())
			Expect(r.errOut).To(ContainSubstring(name))
		}
		_, r := create(shared.name, "")
		Expect(r.code).NotTo(BeZero())
		Expect(r.errOut).To(ContainSubstring("exist"))
		for _, args := range [][]string{
			{"load", "image-archive", filepath.Join(root, "_output/images.tar"), "--name", "nobody"},
			{"export", "kubeconfig", "--name", "nobody"},
			{"kill", "node", "nobody-worker", "--name", "nobody"},
			{"exec", "nobody-worker", "--", "true"},
		} {
			r := skiff(args...)
			Expect(r.code).NotTo(BeZero(), strings.Join(args, " "))
			Expect(r.errOut).To(ContainSubstring("nobody"))
		}
		// As in kind, deleting what is not there is no error.
		Expect(skiff("delete", "cluster", "--name", "nobody").code).To(BeZero())
	})

	It("refuses archives that are not there, empty or cut short", func() {
		dir := GinkgoT().TempDir()
		empty, cut := filepath.Join(dir, "empty.tar"), filepath.Join(dir, "cut.tar")
		Expect(os.WriteFile(empty, nil, 0o644)).To(Succeed())
		whole, err := os.ReadFile(filepath.Join(root, "_output/images.tar"))
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(cut, whole[:len(whole)/3], 0o644)).To(Succeed())
		before := skiff("get", "images", "-o", "json").must()
		for _, file := range []string{filepath.Join(dir, "none.tar"), empty, cut} {
			r := skiff("load", "image-archive", file, "--name", shared.name)
			Expect(r.code).NotTo(BeZero())
			Expect(r.errOut).To(ContainSubstring(file))
		}
		Expect(skiff("get", "images", "-o", "json").must()).To(Equal(before))
	})
})
