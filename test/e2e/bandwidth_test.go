package e2e

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("bandwidth annotations", Ordered, func() {
	BeforeAll(func() { shared.kubectl("create", "namespace", "bandwidth").must() })
	AfterAll(func() { shared.kubectl("delete", "namespace", "bandwidth").must() })

	pod := func(name, ingress, egress string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: bandwidth
  annotations: {kubernetes.io/ingress-bandwidth: %q, kubernetes.io/egress-bandwidth: %q}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/e2e-test-images/agnhost:2.66.1, args: [netexec, --http-port=8080]}]
`, name, ingress, egress)
	}

	// That the kernel keeps to them is tested in dataplane/cni.
	It("are buckets at both ends of the pod's cable", func() {
		shared.apply(pod("slow", "8M", "4M")).must()
		shared.kubectl("wait", "-n", "bandwidth", "pod/slow", "--for=condition=Ready", "--timeout=30s").must()
		node := shared.get("pod/slow", "{.spec.nodeName}", "-n", "bandwidth")
		Expect(skiff("exec", node, "--", "tc", "qdisc", "show").must()).To(ContainSubstring("rate 8Mbit"))
		Expect(shared.kubectl("exec", "-n", "bandwidth", "slow", "--", "tc", "qdisc", "show", "dev", "eth0").must()).To(ContainSubstring("rate 4Mbit"))
	})

	It("that cannot be read are told by an Event of the pod", func() {
		shared.apply(pod("wrong", "lots", "8M")).must()
		Eventually(func() string {
			return shared.get("events", "{.items[*].message}", "-n", "bandwidth", "--field-selector", "involvedObject.name=wrong,reason=FailedCreatePodSandBox")
		}).Should(ContainSubstring("bandwidth"))
		Expect(shared.get("pod/wrong", "{.status.phase}", "-n", "bandwidth")).To(Equal("Pending"))
	})
})
