package e2e

import (
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// Upstream's own specs look for a word in the answer, or for a journal.
var _ = Describe("node logs", func() {
	const served = "/proxy/logs/"
	ask := func(node, query string, flags ...string) result {
		return shared.kubectl(append([]string{"get", "--raw", "/api/v1/nodes/" + node + served + query}, flags...)...)
	}

	DescribeTable("the log of a node's process is there by all its names", func(node, query string) {
		answer := ask(node, query).must()
		// The log grows, and only at its end.
		whole, err := os.ReadFile(filepath.Join("/var/lib/skiff/clusters", shared.name, "logs", node, "node.log"))
		Expect(err).NotTo(HaveOccurred())
		Expect(answer).NotTo(BeEmpty())
		Expect(strings.HasPrefix(string(whole), answer)).To(BeTrue(), "the answer is not the start of the node's log:\n"+answer)
	},
		Entry("query=kubelet", "e2e-worker", "?query=kubelet"),
		Entry("query=kubelet, of a control plane", "e2e-control-plane", "?query=kubelet"),
		Entry("query=containerd", "e2e-worker", "?query=containerd"),
		Entry("a file by query", "e2e-worker", "?query=skiff/node.log"),
		Entry("a file by its path", "e2e-worker", "kubelet.log"),
	)

	It("a control plane's own log is a file beside it", func() {
		Expect(ask("e2e-control-plane", "?query=skiff/control-plane.log").must()).To(ContainSubstring("level="))
	})

	// Files have no entries to choose from: upstream wants a journal for that.
	DescribeTable("options are upstream's, for a service that logs to a file", func(option string) {
		Expect(ask("e2e-worker", "?query=kubelet&"+option).must()).To(ContainSubstring("options present and query resolved to log files for [kubelet]"))
	},
		Entry("tailLines", "tailLines=3"),
		Entry("pattern", "pattern=container"),
		Entry("boot", "boot=0"),
		Entry("sinceTime", "sinceTime=2026-01-01T00:00:00Z"),
		Entry("untilTime", "untilTime=2100-01-01T00:00:00Z"),
	)

	It("what is not there is said", func() {
		Expect(ask("e2e-worker", "?query=nobody").must()).To(ContainSubstring("log not found for nobody"))
	})

	DescribeTable("what may not be asked is refused", func(query, why string, flags ...string) {
		r := ask("e2e-worker", query, flags...)
		Expect(r.code).NotTo(Equal(0))
		Expect(r.errOut).To(ContainSubstring(why))
	},
		Entry("nothing", "?query", "BadRequest"),
		Entry("an option of no kind", "?query=kubelet&tailLines=some", "BadRequest"),
		Entry("a path out of the logs", "?query=../lib/kubelet/config", "path escapes"),
		Entry("a file with options", "?query=skiff/node.log&tailLines=3", "cannot specify file with options"),
		Entry("by somebody without rights", "?query=kubelet", "Forbidden", "--as=system:serviceaccount:default:default"),
	)
})
