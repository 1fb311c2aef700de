package e2e

import (
	"fmt"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("a runtime handler of the config file", Ordered, func() {
	const (
		node = "handlers-control-plane"
		log  = "/var/log/handler.log"
	)
	var c cluster
	var program string
	// handler is a program around runc, as vendors of devices have them.
	handler := func(mode os.FileMode) (path string) {
		GinkgoHelper()
		path = filepath.Join(GinkgoT().TempDir(), "handler")
		Expect(os.WriteFile(path, []byte("#!/bin/sh\necho \"$*\" >>"+log+"\nexec /skiff/libexec/runc \"$@\"\n"), mode)).To(Succeed())
		return path
	}
	config := func(path string) string {
		GinkgoHelper()
		link := filepath.Join(GinkgoT().TempDir(), "runc-of-old")
		Expect(os.Symlink(filepath.Join(root, "bin/libexec/skiff/runc"), link)).To(Succeed())
		return "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nruntimeHandlers:\n" +
			"- {name: vendor, path: " + path + "}\n- {name: other, path: " + link + "}\n"
	}
	pod := func(name, class string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  runtimeClassName: %s
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "registry.k8s.io/e2e-test-images/busybox:1.37.0-2", command: [sleep, "1000"]}
---
`, name, class)
	}
	class := func(name, handler string) string {
		return "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: " + name + "}\nhandler: " + handler + "\n---\n"
	}

	BeforeAll(func() {
		program = handler(0o755)
		var r result
		c, r = create("handlers", config(program))
		DeferCleanup(func() { c.delete().must() })
		r.must()
		c.loadImages()
	})

	It("runs the Pods of its RuntimeClass, and no others", func() {
		Expect(c.get("node/"+node, "{.status.runtimeHandlers[*].name}")).To(ContainSubstring("vendor"))
		c.apply(class("vendor", "vendor") + class("usual", "runc") + pod("vendors", "vendor") + pod("usuals", "usual")).must()
		c.kubectl("wait", "pod/vendors", "pod/usuals", "--for=condition=Ready", "--timeout=60s").must()
		Expect(c.kubectl("exec", "vendors", "--", "echo", "there").must()).To(Equal("there\n"))
		id := func(pod string) string {
			return filepath.Base(c.get("pod/"+pod, "{.status.containerStatuses[0].containerID}"))
		}
		calls := skiff("exec", "--name", "handlers", node, "--", "cat", log).must()
		Expect(calls).To(And(
			ContainSubstring(" create --bundle"), ContainSubstring(" start "+id("vendors")), ContainSubstring(" exec ")))
		Expect(calls).NotTo(ContainSubstring(id("usuals")))
	})

	It("may be another runc, by a link", func() {
		c.apply(class("other", "other") + pod("others", "other")).must()
		c.kubectl("wait", "pod/others", "--for=condition=Ready", "--timeout=60s").must()
	})

	It("is there again after a stop and a start, which miss it by its field", func() {
		skiff("stop", "cluster", "--name", "handlers").must()
		Expect(os.Rename(program, program+".away")).To(Succeed())
		start := skiff("start", "cluster", "--name", "handlers")
		Expect(os.Rename(program+".away", program)).To(Succeed())
		Expect(start.code).NotTo(BeZero())
		Expect(start.errOut).To(ContainSubstring("runtimeHandlers[0].path: stat " + program + ": no such file or directory"))
		skiff("start", "cluster", "--name", "handlers").must()
		c.apply(pod("later", "vendor")).must()
		c.kubectl("wait", "pod/later", "--for=condition=Ready", "--timeout=60s").must()
	})

	It("is missed by name where there is none", func() {
		c.apply(class("gone", "gone") + pod("lost", "gone")).must()
		Eventually(func() string {
			return c.warnings("pod/lost")
		}).Should(ContainSubstring(`no runtime for "gone" is configured`))
	})

	It("has to be a program of the host", func() {
		for path, want := range map[string]string{
			"/nowhere/crun": "runtimeHandlers[0].path: stat /nowhere/crun: no such file or directory",
			handler(0o644):  "is not a program",
		} {
			_, r := create("handlers2", config(path))
			Expect(r.code).NotTo(BeZero())
			Expect(r.errOut).To(ContainSubstring(want))
		}
		Expect(skiff("get", "clusters").must()).NotTo(ContainSubstring("handlers2"))
	})
})
