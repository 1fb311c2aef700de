package e2e

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("usage", Ordered, func() {
	const ns = "usage"
	BeforeAll(func() {
		shared.kubectl("create", "namespace", ns).must()
		// Uses a fifth of a core, twice what it asks for.
		shared.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy, namespace: ` + ns + `}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
        command: [sh, -c, "while :; do :; done"]
        resources: {requests: {cpu: 100m}, limits: {cpu: 200m}}
`).must()
		shared.kubectl("rollout", "status", "-n", ns, "deployment/busy", "--timeout=60s").must()
	})
	AfterAll(func() { shared.kubectl("delete", "namespace", ns).must() })

	It("is what kubectl top shows, of nodes and of Pods", func() {
		var lines []string
		Eventually(func() []string {
			r := shared.kubectl("top", "nodes", "--no-headers")
			AddReportEntry("kubectl top nodes took", r.took.String())
			lines = strings.Split(strings.TrimSpace(r.must()), "\n")
			return lines
		}).Should(HaveLen(3))
		for _, line := range lines {
			Expect(line).To(MatchRegexp(`^e2e-\S+\s+[1-9]\d*m\s+\d+%\s+\d+Mi\s+\d+%`))
		}
		Eventually(func() string { return shared.kubectl("top", "pods", "-n", ns, "--no-headers").out }).
			Should(MatchRegexp(`^busy-\S+\s+(1[5-9]\d|2[0-4]\d)m\s+\d+Mi`), "a fifth of a core")
		Expect(shared.kubectl("top", "pods", "-A", "--containers", "--no-headers").must()).To(ContainSubstring("busy-"))
	})

	It("may be seen by those who may view a namespace", func() {
		viewer := func() string {
			return shared.kubectl("top", "pods", "-n", ns, "--as", "viewer").errOut
		}
		Expect(viewer()).To(ContainSubstring("Forbidden"))
		shared.kubectl("create", "rolebinding", "viewer", "-n", ns, "--clusterrole", "view", "--user", "viewer").must()
		Eventually(viewer).Should(BeEmpty())
	})

	It("makes a HorizontalPodAutoscaler scale up under load", func() {
		shared.kubectl("autoscale", "deployment", "busy", "-n", ns, "--cpu", "50%", "--min", "1", "--max", "3").must()
		begin := time.Now()
		Eventually(func() string { return shared.get("deployment/busy", "{.spec.replicas}", "-n", ns) }).
			WithTimeout(90*time.Second).Should(Equal("3"), "%s", func() string { return shared.kubectl("describe", "hpa", "-n", ns).out })
		AddReportEntry("scaled up after", time.Since(begin).String())
		Eventually(func() string { return shared.get("deployment/busy", "{.status.readyReplicas}", "-n", ns) }).Should(Equal("3"))
	})
})
