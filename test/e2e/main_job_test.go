package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("the main job", Ordered, func() {
	BeforeAll(func() {
		shared.kubectl("create", "namespace", "demo").must()
		shared.kubectl("apply", "-n", "demo", "-f", filepath.Join(root, "config/samples/demo.yaml")).must()
		shared.kubectl("rollout", "status", "-n", "demo", "deployment/demo", "--timeout=60s").must()
	})
	AfterAll(func() { shared.kubectl("delete", "namespace", "demo").must() })

	It("runs every node Ready at our version", func() {
		out := shared.get("nodes", `{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} {.status.nodeInfo.kubeletVersion}{"\n"}{end}`)
		Expect(strings.Fields(out)).To(Equal([]string{
			"e2e-control-plane", "True", "v1.37.2+skiff", "e2e-worker", "True", "v1.37.2+skiff", "e2e-worker2", "True", "v1.37.2+skiff",
		}))
		Expect(shared.kubectl("version", "-o", "json").must()).To(ContainSubstring(`"gitVersion": "v1.37.2+skiff"`))
		Expect(shared.get("node/e2e-worker", "{.metadata.labels.tier}")).To(Equal("front"))
	})

	It("answers on the Service's ClusterIP from the host, by pods on more than one node", func() {
		url := "http://" + shared.get("service/demo", "{.spec.clusterIP}", "-n", "demo")
		nodes := map[string]bool{}
		Eventually(func() (map[string]bool, error) {
			body, err := fetch(url)
			if f := strings.Fields(body); err == nil && len(f) > 8 {
				nodes[f[8]] = true
			}
			return nodes, err
		}).Should(HaveLen(2))
	})

	It("answers on a NodePort of every node and on a mapped host port", func() {
		shared.apply(`
apiVersion: v1
kind: Service
metadata: {name: demo-nodeport, namespace: demo}
spec:
  type: NodePort
  selector: {app: demo}
  ports: [{port: 80, targetPort: http, nodePort: 30080}]
`).must()
		for _, ip := range strings.Fields(shared.get("nodes", `{.items[*].status.addresses[?(@.type=="InternalIP")].address}`)) {
			Eventually(func() (string, error) { return fetch("http://" + ip + ":30080") }).Should(ContainSubstring("Hello from skiff"))
		}
		var port string
		for _, line := range strings.Split(skiff("get", "nodes", "--name", shared.name, "-o", "json").must(), "\n") {
			if _, after, ok := strings.Cut(line, `"hostPort":`); ok {
				port = strings.Trim(after, " ,}")
			}
		}
		Expect(port).NotTo(BeEmpty())
		Eventually(func() (string, error) { return fetch("http://127.0.0.1:" + port) }).Should(ContainSubstring("Hello from skiff"))
	})

	It("answers by name inside a pod, and refuses a Service without endpoints at once", func() {
		shared.apply(`
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: demo}
spec:
  selector: {app: nobody}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: demo}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: registry.k8s.io/e2e-test-images/agnhost:2.66.1}]
`).must()
		shared.kubectl("wait", "-n", "demo", "pod/client", "--for=condition=Ready", "--timeout=30s").must()
		Eventually(func() string {
			return shared.kubectl("exec", "-n", "demo", "client", "--", "curl", "-sS", "-m", "5", "http://demo").out
		}).Should(ContainSubstring("Hello from skiff"))
		Expect(shared.kubectl("exec", "-n", "demo", "client", "--", "curl", "-sS", "-m", "5", "http://demo.demo.svc.cluster.local").must()).To(ContainSubstring("Hello"))
		r := shared.kubectl("exec", "-n", "demo", "client", "--", "curl", "-sS", "-m", "5", "http://empty")
		Expect(r.errOut).To(ContainSubstring("curl: (7)"), "a refusal; a time-out would be (28)")
	})

	It("serves logs, exec with a terminal's exit code, cp and port-forward", func() {
		pod := shared.get("pods", "{.items[0].metadata.name}", "-n", "demo", "-l", "app=demo")
		shared.kubectl("logs", "-n", "demo", pod).must()
		Expect(shared.kubectl("exec", "-n", "demo", "client", "--", "sh", "-c", "exit 7").code).To(Equal(7))
		Expect(run("hello\n", filepath.Join(root, "_output/bin/kubectl"), "--kubeconfig", shared.kubeconfig, "exec", "-i", "-n", "demo", "client", "--", "cat").must()).To(Equal("hello\n"))

		cmd := exec.Command(filepath.Join(root, "_output/bin/kubectl"), "--kubeconfig", shared.kubeconfig, "port-forward", "-n", "demo", "pod/"+pod, ":8080")
		out, err := cmd.StdoutPipe()
		Expect(err).NotTo(HaveOccurred())
		Expect(cmd.Start()).To(Succeed())
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		buf := make([]byte, 200)
		n, err := out.Read(buf)
		Expect(err).NotTo(HaveOccurred())
		_, after, ok := bytes.Cut(buf[:n], []byte("127.0.0.1:"))
		Expect(ok).To(BeTrue(), string(buf[:n]))
		port, _, _ := strings.Cut(string(after), " ")
		Expect(fetch("http://127.0.0.1:" + port)).To(ContainSubstring(pod))
	})

	It("keeps data in a PersistentVolume when its Pod is replaced", func() {
		claim := `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: demo}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 10Mi}}
`
		writer := func(name, command string) string {
			return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: demo}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, "%s"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`, name, command)
		}
		shared.apply(claim).must()
		shared.apply(writer("writer", "echo kept > /data/file")).must()
		Eventually(func() string { return shared.get("pod/writer", "{.status.phase}", "-n", "demo") }).Should(Equal("Succeeded"))
		shared.kubectl("delete", "pod", "writer", "-n", "demo").must()
		shared.apply(writer("reader", "cat /data/file")).must()
		Eventually(func() string { return shared.get("pod/reader", "{.status.phase}", "-n", "demo") }).Should(Equal("Succeeded"))
		Expect(shared.kubectl("logs", "-n", "demo", "reader").must()).To(Equal("kept\n"))
		volume := shared.get("pvc/data", "{.spec.volumeName}", "-n", "demo")
		shared.kubectl("delete", "pod/reader", "pvc/data", "-n", "demo").must()
		Eventually(func() string { return shared.get("pv/"+volume, "{.metadata.name}") }).Should(BeEmpty())
	})

	It("gives a Pod a user namespace of its own", func() {
		shared.apply(`
apiVersion: v1
kind: Pod
metadata: {name: mapped, namespace: demo}
spec:
  hostUsers: false
  restartPolicy: Never
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [cat, /proc/self/uid_map]
`).must()
		Eventually(func() string { return shared.get("pod/mapped", "{.status.phase}", "-n", "demo") }).Should(Equal("Succeeded"))
		// The kubelet gives each Pod 65536 ids, above those of the host.
		Expect(shared.kubectl("logs", "-n", "demo", "mapped").must()).To(MatchRegexp(`^\s*0\s+[1-9]\d+\s+65536\s*$`))
	})

	It("deletes a namespace with a running Pod without waiting for anything but the Pod", func() {
		shared.kubectl("create", "namespace", "short").must()
		shared.apply(`
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: short}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: registry.k8s.io/pause:3.10.2}]
`).must()
		shared.kubectl("wait", "-n", "short", "pod/p", "--for=condition=Ready", "--timeout=30s").must()
		shared.kubectl("delete", "namespace", "short", "--timeout=20s").must()
	})

	It("keeps Secrets encrypted in etcd's files", func() {
		secret := "plain-text-needle-" + fmt.Sprint(os.Getpid())
		shared.kubectl("create", "secret", "generic", "needle", "-n", "demo", "--from-literal=k="+secret).must()
		shared.kubectl("create", "configmap", "needle", "-n", "demo", "--from-literal=k=config-"+secret).must()
		dir := "/var/lib/skiff/clusters/" + shared.name
		Eventually(func() bool { return contains(dir, "config-"+secret) }).Should(BeTrue(), "the search itself finds a ConfigMap")
		r := run("", "grep", "-rlaF", "--", secret, dir)
		for _, file := range strings.Fields(r.out) {
			data, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			data = bytes.ReplaceAll(data, []byte("config-"+secret), nil)
			Expect(bytes.Contains(data, []byte(secret))).To(BeFalse(), "Secret in plain text in "+file)
		}
	})
})

func contains(dir, needle string) bool {
	return run("", "grep", "-rqaF", "--", needle, dir).code == 0
}

// fetch gets a URL with a bound of three seconds, on a connection of its own.
func fetch(url string) (string, error) {
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
