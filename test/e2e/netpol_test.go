package e2e

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("network policies", Ordered, func() {
	// A server with probes, behind a Service, and two clients: one on the
	// server's node, one on the other.
	pods := webServer("guarded") +
		webClient("guarded", "near", "client", "e2e-worker") +
		webClient("guarded", "far", "stranger", "e2e-worker2")
	policy := func(name, spec string) {
		GinkgoHelper()
		shared.apply(fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: guarded}\nspec: %s\n", name, spec)).must()
	}
	reach := func(from string) string {
		r := shared.kubectl("exec", "-n", "guarded", from, "--", "curl", "-sS", "-m", "2", "http://server/hostname")
		if r.code == 0 {
			return r.out
		}
		return r.errOut
	}
	const timedOut = "curl: (28)"

	BeforeAll(func() {
		shared.kubectl("create", "namespace", "guarded").must()
		shared.apply(pods).must()
		shared.kubectl("wait", "-n", "guarded", "pod", "--all", "--for=condition=Ready", "--timeout=60s").must()
		for _, from := range []string{"near", "far"} {
			Eventually(reach).WithArguments(from).Should(Equal("server"))
		}
	})
	AfterAll(func() { shared.kubectl("delete", "namespace", "guarded").must() })

	It("deny by default, and the kubelet's probes go on", func() {
		policy("deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}")
		for _, from := range []string{"near", "far"} {
			Eventually(reach).WithArguments(from).Should(ContainSubstring("curl: ("))
		}
		Consistently(func() string {
			return shared.get("pod/server", `{.status.conditions[?(@.type=="Ready")].status}`, "-n", "guarded")
		}).WithTimeout(3 * time.Second).WithPolling(500 * time.Millisecond).Should(Equal("True"))
	})

	It("allow whom they name, by the names of Services", func() {
		policy("dns", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]}`)
		policy("clients", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: server}}}], ports: [{port: http}]}]}`)
		policy("server", `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: http}]}]}`)
		Eventually(reach).WithArguments("near").Should(Equal("server"))
		Expect(reach("far")).To(ContainSubstring(timedOut), "it resolves the name, and may call, but is not let in")

		shared.kubectl("label", "-n", "guarded", "pod/far", "app=client", "--overwrite").must()
		Eventually(reach).WithArguments("far").Should(Equal("server"))
		shared.kubectl("label", "-n", "guarded", "pod/far", "app=stranger", "--overwrite").must()
		Eventually(reach).WithArguments("far").Should(ContainSubstring(timedOut))
	})

	It("hold while the node's process is killed, and hold for pods that start", func() {
		killAll("skiff-machine node", "e2e-worker")
		// Until the kubelet is back, exec fails; the server is never reached.
		Eventually(func() string {
			answer := reach("far")
			Expect(answer).NotTo(Equal("server"))
			return answer
		}).Should(ContainSubstring(timedOut))
		Eventually(reach).WithArguments("near").Should(Equal("server"))
		Expect(reach("far")).To(ContainSubstring(timedOut))

		// Its first packet is judged already.
		shared.apply(`
apiVersion: v1
kind: Pod
metadata: {name: hasty, namespace: guarded, labels: {app: hasty}}
spec:
  nodeName: e2e-worker
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/agnhost:2.66.1
    command: [sh, -c, "curl -sS -k -m 2 https://$KUBERNETES_SERVICE_HOST/version 2>&1; true"]
`).must()
		Eventually(func() string { return shared.get("pod/hasty", "{.status.phase}", "-n", "guarded") }).Should(Equal("Succeeded"))
		Expect(shared.kubectl("logs", "-n", "guarded", "hasty").must()).To(ContainSubstring(timedOut))
	})

	It("end with their objects", func() {
		shared.kubectl("delete", "networkpolicy", "-n", "guarded", "--all").must()
		for _, from := range []string{"near", "far"} {
			Eventually(reach).WithArguments(from).Should(Equal("server"))
		}
	})
})
