package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/skiff-k8s/skiff/test/leftovers"
)

// threeNodes is the config of the suite's own cluster.
const threeNodes = `
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
nodes:
- role: control-plane
  extraPortMappings:
  - containerPort: 30080
    hostPort: 0
- role: worker
  labels: {tier: front}
- role: worker
`

var (
	shared cluster
	// uplinks counts, from before the first cluster to after the last one,
	// what must not leave the host.
	uplinks *counter
)

func TestE2E(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("clusters need root")
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(30 * time.Second)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	RunSpecs(t, "skiff")
}

func init() {
	fail = func(message string) { Fail(message, 2) }
}

var _ = BeforeSuite(func() {
	before, err := inventory()
	Expect(err).NotTo(HaveOccurred())
	// Last of all: the firewall counter is to leave nothing either.
	DeferCleanup(func() {
		living = ""
		expectNothingLeft(before)
	})
	uplinks, err = startCounter()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(uplinks.close)
	var r result
	shared, r = create("e2e", threeNodes)
	living = shared.name
	r.must()
	for _, p := range shared.ranges() {
		Expect(uplinks.covers(p)).To(BeTrue(), "the firewall counter does not watch "+p.String())
	}
	shared.loadImages()
})

var _ = AfterSuite(func() {
	if shared.name == "" {
		return
	}
	if CurrentSpecReport().Failed() {
		skiff("export", "logs", filepath.Join(root, "_output/e2e-logs"), "--name", shared.name)
	}
	shared.delete().must()
	Expect(uplinks.seen()).To(BeEmpty(), "packets of cluster ranges at the host's uplinks")
})

// loadImages gives the cluster those of the suite.
func (c cluster) loadImages() {
	GinkgoHelper()
	skiff("load", "image-archive", filepath.Join(root, "_output/images.tar"), "--name", c.name).must()
}

// expectNothingLeft compares the host with an earlier inventory. The kernel
// frees BPF objects and network namespaces a little after the last reference.
func expectNothingLeft(before []string) {
	GinkgoHelper()
	Eventually(func() ([]string, error) {
		after, err := inventory()
		return leftovers.Added(before, after), err
	}).WithTimeout(20 * time.Second).Should(BeEmpty())
}
