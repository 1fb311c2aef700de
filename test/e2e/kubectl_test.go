package e2e

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// The verbs of kubectl behind which controllers do the work. top and
// autoscale are in metrics_test.go.
var _ = Describe("kubectl", Ordered, func() {
	const ns = "verbs"
	in := func(args ...string) result { return shared.kubectl(append(args, "-n", ns)...) }
	pods := func(selector string) []string {
		return strings.Fields(shared.get("pods", "{.items[*].metadata.name}", "-n", ns, "-l", selector))
	}
	BeforeAll(func() {
		shared.kubectl("create", "namespace", ns).must()
		shared.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: ` + ns + `}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {version: "1"}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeSelector: {tier: front}
      containers:
      - {name: c, image: skiff.cluster/demo:latest, imagePullPolicy: Never}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: ` + ns + `}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
`).must()
		in("rollout", "status", "deployment/web", "--timeout=60s").must()
	})
	AfterAll(func() {
		shared.kubectl("uncordon", "e2e-worker").must()
		shared.kubectl("delete", "namespace", ns).must()
	})

	It("rollout: history, pause, resume, undo", func() {
		in("rollout", "pause", "deployment/web").must()
		in("patch", "deployment", "web", "-p", `{"spec":{"template":{"metadata":{"annotations":{"version":"2"}}}}}`).must()
		in("annotate", "deployment", "web", "kubernetes.io/change-cause=second").must()
		Expect(in("rollout", "history", "deployment/web").must()).NotTo(ContainSubstring("second"), "a paused Deployment has no second revision")
		Expect(in("rollout", "undo", "deployment/web", "--to-revision=1").errOut).To(ContainSubstring("paused"))
		in("rollout", "resume", "deployment/web").must()
		Expect(in("rollout", "status", "deployment/web", "--timeout=60s").must()).To(ContainSubstring("successfully rolled out"))
		Expect(in("rollout", "history", "deployment/web").must()).To(MatchRegexp(`(?m)^2\s+second$`))

		in("rollout", "undo", "deployment/web", "--to-revision=1").must()
		in("rollout", "status", "deployment/web", "--timeout=60s").must()
		Expect(shared.get("deployment/web", "{.spec.template.metadata.annotations.version}", "-n", ns)).To(Equal("1"))
		Expect(in("rollout", "history", "deployment/web").must()).To(MatchRegexp(`(?m)^3\s`))
		Expect(in("rollout", "history", "deployment/web").must()).NotTo(MatchRegexp(`(?m)^1\s`), "the first revision is the third now")
		Expect(in("rollout", "undo", "deployment/web", "--to-revision=9").errOut).To(ContainSubstring("unable to find"))
	})

	It("scale: up and down, and not from a number that is wrong", func() {
		Expect(in("scale", "deployment/web", "--replicas=3", "--current-replicas=7").errOut).To(ContainSubstring("Expected replicas to be 7, was 2"))
		in("scale", "deployment/web", "--replicas=3").must()
		in("wait", "deployment/web", "--for=jsonpath={.status.readyReplicas}=3", "--timeout=30s").must()
		in("scale", "deployment/web", "--replicas=2").must()
		Eventually(func() []string { return pods("app=web") }).Should(HaveLen(2))
	})

	It("drain: respects the budget, cordon keeps Pods away", func() {
		drain := []string{"drain", "e2e-worker", "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app=web"}
		refused := shared.kubectl(append(drain, "--timeout=2s")...)
		Expect(refused.code).NotTo(BeZero())
		Expect(refused.errOut + refused.out).To(ContainSubstring("would violate the pod's disruption budget"))
		Expect(pods("app=web")).To(HaveLen(2))
		Expect(shared.kubectl("get", "node", "e2e-worker").must()).To(ContainSubstring("SchedulingDisabled"))

		in("patch", "pdb", "web", "--type=merge", "-p", `{"spec":{"minAvailable":0}}`).must()
		shared.kubectl(append(drain, "--timeout=30s")...).must()
		// No other node has the label.
		Eventually(func() string { return shared.get("pods", "{.items[*].status.phase}", "-n", ns, "-l", "app=web") }).Should(Equal("Pending Pending"))
		shared.kubectl("uncordon", "e2e-worker").must()
		in("wait", "pod", "-l", "app=web", "--for=condition=Ready", "--timeout=30s").must()
	})

	It("delete: --cascade decides about what is owned", func() {
		before := pods("app=web")
		in("delete", "deployment", "web", "--cascade=orphan").must()
		Expect(pods("app=web")).To(ConsistOf(before))
		set := strings.Fields(shared.get("replicasets", `{.items[?(@.spec.replicas==2)].metadata.name}`, "-n", ns))
		Expect(set).To(HaveLen(1))
		Expect(shared.get("replicaset/"+set[0], "{.metadata.ownerReferences}", "-n", ns)).To(BeEmpty())

		in("delete", "replicaset", set[0], "--cascade=foreground", "--timeout=30s").must()
		Expect(pods("app=web")).To(BeEmpty(), "foreground: what is owned goes first")

		in("create", "deployment", "short", "--image=skiff.cluster/demo:latest", "--replicas=2").must()
		// Who is process 1 and has not come to handle SIGTERM yet ignores it.
		in("rollout", "status", "deployment/short", "--timeout=30s").must()
		in("delete", "deployment", "short", "--cascade=background").must()
		in("wait", "pod", "-l", "app=short", "--for=delete", "--timeout=30s").must()
	})
})
