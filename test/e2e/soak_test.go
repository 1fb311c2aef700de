package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/skiff-k8s/skiff/test/load"
)

const (
	// soakPause is between two calls of one caller to one Service.
	soakPause = 100 * time.Millisecond
	// soakReplicas of each Deployment; with two the default strategy never
	// takes one away before another is ready.
	soakReplicas = 2
)

// soakDeployment is a Deployment behind a Service. Its server goes on for
// three seconds after SIGTERM, as graceful termination asks of servers.
const soakDeployment = `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-%[1]d, namespace: soak, labels: {app: soak}}
spec:
  replicas: %[2]d
  selector: {matchLabels: {web: "%[1]d"}}
  template:
    metadata: {labels: {web: "%[1]d", app: soak}}
    spec:
      containers:
      - name: c
        image: skiff.cluster/demo:latest
        imagePullPolicy: Never
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web-%[1]d, namespace: soak}
spec:
  selector: {web: "%[1]d"}
  ports: [{port: 80, targetPort: 8080}]
`

// soakCaller is a Pod on a node that calls all Services.
const soakCaller = `
apiVersion: v1
kind: Pod
metadata: {name: caller-%[1]s, namespace: soak, labels: {app: caller}}
spec:
  nodeName: %[1]s
  restartPolicy: Never
  containers: [{name: c, image: skiff.cluster/load:latest, imagePullPolicy: Never, args: [%[2]s]}]
`

var _ = Describe("soak", func() {
	DescribeTable("Deployments roll under load from pods and from the host, and no connection fails",
		soak,
		Entry("a few, once each", 8, 1),
		Entry("fifty, twice each", Label("soak"), 50, 2),
	)
})

func soak(deployments, rolls int) {
	shared.kubectl("create", "namespace", "soak").must()
	DeferCleanup(func() { shared.kubectl("delete", "namespace", "soak").must() })
	var manifest strings.Builder
	for i := range deployments {
		fmt.Fprintf(&manifest, soakDeployment, i, soakReplicas)
	}
	shared.apply(manifest.String()).must()
	rolledOut := func() {
		GinkgoHelper()
		shared.kubectl("rollout", "status", "-n", "soak", "deployment", "-l", "app=soak", "--timeout=110s").must()
	}
	rolledOut()
	before := soakPods()
	Expect(before).To(HaveLen(deployments * soakReplicas))

	var urls []string
	for _, ip := range strings.Fields(shared.get("services", "{.items[*].spec.clusterIP}", "-n", "soak")) {
		urls = append(urls, "http://"+ip+"/healthz")
	}
	Expect(urls).To(HaveLen(deployments))
	callers := []string{"e2e-worker", "e2e-worker2"}
	for _, node := range callers {
		shared.apply(fmt.Sprintf(soakCaller, node, fmt.Sprintf(`"%s", "%s"`, soakPause, strings.Join(urls, `", "`)))).must()
	}
	ctx, stop := context.WithCancel(context.Background())
	host := make(chan load.Result, 1)
	go func() { host <- load.Run(ctx, urls, soakPause) }()
	defer stop()
	shared.kubectl("wait", "-n", "soak", "pod", "-l", "app=caller", "--for=condition=Ready", "--timeout=30s").must()

	for range rolls {
		shared.kubectl("rollout", "restart", "-n", "soak", "deployment", "-l", "app=soak").must()
		rolledOut()
	}
	// The last of the old pods end under load too.
	Eventually(soakPods).WithTimeout(60 * time.Second).Should(HaveLen(deployments * soakReplicas))
	Expect(soakPods()).NotTo(ContainElements(before), "every pod was replaced")

	stop()
	results := map[string]load.Result{"host": <-host}
	for _, node := range callers {
		results[node] = stopCaller(node)
	}
	for from, r := range results {
		GinkgoWriter.Printf("from %s: %d calls, slowest %v\n", from, r.Calls, r.Slowest)
		Expect(r.Failures).To(BeZero(), "%d of %d calls from %s failed:\n%s", r.Failures, r.Calls, from, strings.Join(r.Errors, "\n"))
		Expect(r.Least).To(BeNumerically(">", 10), "every Service was called from "+from)
	}
}

// soakPods are the UIDs of the servers' pods, those that are ending included.
func soakPods() []string {
	return strings.Fields(shared.get("pods", "{.items[*].metadata.uid}", "-n", "soak", "-l", "app=soak"))
}

// stopCaller ends a caller's program, whose Pod stays, and reads what it says.
func stopCaller(node string) (r load.Result) {
	GinkgoHelper()
	pod := "caller-" + node
	pids := find("/load "+soakPause.String(), node)
	Expect(pids).To(HaveLen(1))
	run("", "kill", fmt.Sprint(pids[0])).must()
	Eventually(func() string { return shared.get("pod/"+pod, "{.status.phase}", "-n", "soak") }).Should(Equal("Succeeded"))
	out := shared.kubectl("logs", "-n", "soak", pod).must()
	Expect(json.Unmarshal([]byte(out), &r)).To(Succeed(), out)
	return r
}
