package e2e

import "fmt"

// webServer is a Pod "server" with probes on e2e-worker, behind a Service of
// its name: port 80, "web".
func webServer(namespace string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: %[1]s, labels: {app: server}}
spec:
  nodeName: e2e-worker
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/agnhost:2.66.1
    args: [netexec]
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /hostname, port: http}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: %[1]s}
spec: {selector: {app: server}, ports: [{name: web, port: 80, targetPort: http}]}
`, namespace)
}

// webClient is a Pod that curl can be run in.
func webClient(namespace, name, app, node string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/e2e-test-images/agnhost:2.66.1}]
`, name, namespace, app, node)
}
