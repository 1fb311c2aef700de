package e2e

import (
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Services of type LoadBalancer", Ordered, func() {
	const ns = "balanced"
	address := func(name string) string {
		return shared.get("service/"+name, "{.status.loadBalancer.ingress[*].ip}", "-n", ns)
	}
	balanced := func(name, extra string, port int) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s, annotations: {%s}}
spec:
  type: LoadBalancer
  selector: {app: demo}
  ports: [{port: %d, targetPort: http}]
`, name, ns, extra, port)
	}
	BeforeAll(func() {
		shared.kubectl("create", "namespace", ns).must()
		shared.kubectl("apply", "-n", ns, "-f", filepath.Join(root, "config/samples/demo.yaml")).must()
		shared.apply(`
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: ` + ns + `}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/e2e-test-images/agnhost:2.66.1}]
`).must()
		shared.kubectl("rollout", "status", "-n", ns, "deployment/demo", "--timeout=60s").must()
		shared.kubectl("wait", "-n", ns, "pod/client", "--for=condition=Ready", "--timeout=30s").must()
	})
	AfterAll(func() { shared.kubectl("delete", "namespace", ns).must() })

	var first string
	It("get an address at once that answers on the host, in a pod and on a node", func() {
		shared.kubectl("expose", "deployment", "demo", "-n", ns, "--name", "web", "--type", "LoadBalancer", "--port", "80", "--target-port", "http").must()
		exposed := time.Now()
		Eventually(func() string { return address("web") }).WithPolling(time.Millisecond).ShouldNot(BeEmpty())
		AddReportEntry("address after kubectl expose returned", time.Since(exposed).String())
		first = address("web")
		Expect(shared.kubectl("get", "service", "web", "-n", ns).must()).To(ContainSubstring(first))
		Eventually(func() (string, error) { return fetch("http://" + first) }).Should(ContainSubstring("Hello from skiff"))
		Eventually(func() string {
			return shared.kubectl("exec", "-n", ns, "client", "--", "curl", "-sS", "-m", "5", "http://"+first).out
		}).Should(ContainSubstring("Hello from skiff"))
		Eventually(func() string {
			return skiff("exec", shared.name+"-worker", "--name", shared.name, "--", "curl", "-sS", "-m", "5", "http://"+first).out
		}).Should(ContainSubstring("Hello from skiff"))
		Expect(shared.kubectl("describe", "service", "web", "-n", ns).must()).To(ContainSubstring("Ensured load balancer"))
	})

	It("get the address that they ask for, and may share it", func() {
		shared.apply(balanced("asks", `skiff.cluster/load-balancer-ips: "`+lastByte(first, 0)+`", skiff.cluster/allow-shared-ip: k`, 80)).must()
		shared.apply(balanced("shares", `skiff.cluster/load-balancer-ips: "`+lastByte(first, 0)+`", skiff.cluster/allow-shared-ip: k`, 81)).must()
		shared.apply(balanced("too-late", `skiff.cluster/load-balancer-ips: "`+lastByte(first, 0)+`"`, 82)).must()
		for _, url := range []string{lastByte(first, 0), lastByte(first, 0) + ":81"} {
			Eventually(func() (string, error) { return fetch("http://" + url) }).Should(ContainSubstring("Hello from skiff"))
			Eventually(func() string {
				return shared.kubectl("exec", "-n", ns, "client", "--", "curl", "-sS", "-m", "5", "http://"+url).out
			}).Should(ContainSubstring("Hello from skiff"))
		}
		Eventually(func() string { return shared.kubectl("describe", "service", "too-late", "-n", ns).must() }).Should(
			ContainSubstring("requested address " + lastByte(first, 0) + " is in use by Service " + ns + "/asks"))
		Expect(address("too-late")).To(BeEmpty())
	})

	It("keep their addresses while the control plane starts again", func() {
		before := shared.get("services", "{.items[*].status.loadBalancer.ingress[*].ip}", "-n", ns)
		pids := find("skiff-machine control-plane", shared.name+"-control-plane")
		Expect(pids).NotTo(BeEmpty())
		for _, pid := range pids {
			Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		}
		Eventually(func() int { return shared.apply(balanced("late", "", 80)).code }).Should(BeZero())
		Eventually(func() string { return address("late") }).ShouldNot(BeEmpty())
		Expect(shared.get("services", `{.items[?(@.metadata.name!="late")].status.loadBalancer.ingress[*].ip}`, "-n", ns)).To(Equal(before))
		Expect(before).NotTo(ContainSubstring(address("late")))
	})

	It("give the address back when they are deleted or are of another type", func() {
		shared.kubectl("delete", "service", "web", "-n", ns).must()
		Eventually(func() error { _, err := fetch("http://" + first); return err }).Should(HaveOccurred())
		shared.apply(balanced("next", "", 80)).must()
		Eventually(func() string { return address("next") }).Should(Equal(first))
		Eventually(func() (string, error) { return fetch("http://" + first) }).Should(ContainSubstring("Hello from skiff"))
		shared.kubectl("patch", "service", "next", "-n", ns, "-p", `{"spec":{"type":"ClusterIP"}}`).must()
		Eventually(func() error { _, err := fetch("http://" + first); return err }).Should(HaveOccurred())
		Eventually(func() string { return shared.get("service/next", "{.metadata.finalizers}", "-n", ns) }).Should(BeEmpty())
	})
})

// lastByte is an IPv4 address with another end.
func lastByte(ip string, end byte) string {
	var a, b, c, d byte
	_, err := fmt.Sscanf(ip, "%d.%d.%d.%d", &a, &b, &c, &d)
	Expect(err).NotTo(HaveOccurred())
	return fmt.Sprintf("%d.%d.%d.%d", a, b, c, end)
}
