package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("trace", Ordered, func() {
	objects := webServer("traced") + webClient("traced", "client", "client", "e2e-worker2") + `
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: traced}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
`
	trace := func(args ...string) string {
		GinkgoHelper()
		return skiff(append([]string{"trace", args[0], "--name", shared.name, "-n", "traced"}, args[1:]...)...).must()
	}
	curl := func() int {
		return shared.kubectl("exec", "-n", "traced", "client", "--", "curl", "-sS", "-m", "2", "http://server/hostname").code
	}

	BeforeAll(func() {
		shared.kubectl("create", "namespace", "traced").must()
		shared.apply(objects).must()
		shared.kubectl("wait", "-n", "traced", "pod", "--all", "--for=condition=Ready", "--timeout=60s").must()
		Eventually(curl).Should(BeZero())
	})
	AfterAll(func() { shared.kubectl("delete", "namespace", "traced").must() })

	It("says which endpoints a Service leads to, and that the maps agree", func() {
		address := shared.get("service/server", "{.spec.clusterIP}", "-n", "traced")
		for _, client := range []string{"client", "node/e2e-worker2", "host"} {
			Expect(trace("service", client, "server")).To(And(
				ContainSubstring(address+":80/TCP is port web of Service traced/server: 1 endpoint, 1 ready, 1 used; maps agree with the plan."),
				ContainSubstring("pod traced/server  on e2e-worker  ready")), client)
		}
		Expect(trace("service", "client", "nobody")).To(And(
			ContainSubstring("REFUSED, no endpoint for this client (0 endpoints, 0 ready, 0 used); maps agree"),
			ContainSubstring("matches its selector app=nobody")))
		Expect(trace("service", "client", "kube-dns.kube-system:dns", "--protocol", "udp")).To(ContainSubstring("1 used; maps agree"))

		var report struct {
			Answers []struct {
				Service, Outcome string
				Endpoints        []struct{ Pod string }
			}
		}
		Expect(json.Unmarshal([]byte(trace("service", "traced/client", "server.traced:web", "-o", "json")), &report)).To(Succeed())
		Expect(report.Answers).To(HaveLen(1))
		Expect(report.Answers[0].Outcome).To(Equal("translated"))
		Expect(report.Answers[0].Endpoints[0].Pod).To(Equal("traced/server"))
	})

	It("says what is wrong with a question", func() {
		for question, words := range map[string]string{
			"absent server":       `pod traced/absent: not found`,
			"client absent":       `service traced/absent: not found`,
			"client server:81":    `service traced/server has no TCP port 81: it has 80/TCP (web)`,
			"node/absent server":  `node "absent": not found`,
			"client pod/server:x": `no TCP port x`,
		} {
			var pod, dest string
			_, err := fmt.Sscan(question, &pod, &dest)
			Expect(err).NotTo(HaveOccurred())
			r := skiff("trace", "service", "--name", shared.name, "-n", "traced", pod, dest)
			Expect(r.code).To(Equal(1), question)
			Expect(r.errOut).To(And(HavePrefix("Error: trace service: "), ContainSubstring(words), ContainSubstring("\n  Mend: ")), question)
		}
	})

	It("names the policy and the rule, as the maps of both nodes do", func() {
		Expect(trace("policy", "client", "server")).To(HavePrefix("ALLOWED: pod traced/client"))
		policy := func(name, spec string) {
			GinkgoHelper()
			shared.apply(fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: traced}\nspec: %s\n", name, spec)).must()
		}
		policy("deny", "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}")
		Eventually(curl).ShouldNot(BeZero())
		Eventually(trace).WithArguments("policy", "client", "server").Should(And(
			HavePrefix("DENIED on ingress: pod traced/client"),
			ContainSubstring("no rule of NetworkPolicy traced/deny allows it; maps agree with the plan."),
			ContainSubstring("ingress of traced/server on e2e-worker: denied, selected by traced/deny; maps: deny"),
			ContainSubstring("egress of traced/client on e2e-worker2: allowed, no policy selects the pod; maps: allow")))
		policy("web", "{podSelector: {}, ingress: [{ports: [{port: 9}]}, {from: [{podSelector: {}}], ports: [{port: http}]}]}")
		Eventually(curl).Should(BeZero())
		Eventually(trace).WithArguments("policy", "client", "pod/server:http").Should(And(
			HavePrefix("ALLOWED"), ContainSubstring("by traced/web spec.ingress[1]; maps agree")))
		Expect(trace("policy", "host", "server")).To(HavePrefix("DENIED on ingress: host ("))

		metrics := skiff("exec", "--name", shared.name, "e2e-worker", "--", "curl", "-sS", "http://127.0.0.1:10249/metrics").must()
		Expect(metrics).To(MatchRegexp(`skiff_policies_dropped_packets_total\{reason="ingress"\} [1-9]`))
		Expect(metrics).To(MatchRegexp(`skiff_policies_map_entries\{map="policy_pods"\} [1-9]`))
		Expect(metrics).To(MatchRegexp(`skiff_services_map_entries\{map="lb_services",maps="node"\} [1-9]`))
		Expect(metrics).To(MatchRegexp(`skiff_services_refused_total\{maps="node",reason="no-endpoint"\} `))
	})

	It("reports an entry that was removed behind the dataplane's back", func() {
		pins := fmt.Sprintf("/proc/%d/root/sys/fs/bpf/services", find("skiff-machine node", "e2e-worker2")[0])
		address := netip.MustParseAddr(shared.get("service/server", "{.spec.clusterIP}", "-n", "traced"))
		services, err := ebpf.LoadPinnedMap(filepath.Join(pins, "lb_services"), nil)
		Expect(err).NotTo(HaveOccurred())
		defer services.Close()
		var key, value, entry, removed []byte
		for all := services.Iterate(); all.Next(&key, &value); {
			if bytes.Contains(key, address.AsSlice()) {
				entry, removed = bytes.Clone(key), bytes.Clone(value)
			}
		}
		Expect(entry).NotTo(BeNil(), "the Service is in the map")
		Expect(services.Delete(entry)).To(Succeed())
		DeferCleanup(func() {
			m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "lb_services"), nil)
			Expect(err).NotTo(HaveOccurred())
			defer m.Close()
			Expect(m.Put(entry, removed)).To(Succeed())
		})
		Expect(trace("service", "client", "server")).To(And(
			ContainSubstring("NOT TRANSLATED"), ContainSubstring("MAPS DIFFER from the plan, in 1 place"),
			ContainSubstring(fmt.Sprintf("differs: lb_services lacks %s:80/TCP", address))))
		Expect(trace("service", "host", "server")).To(ContainSubstring("maps agree"), "the switch has it still")
	})
})
