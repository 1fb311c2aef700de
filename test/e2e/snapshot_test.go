package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// notes is a StatefulSet whose pod serves its volume, and writes into it when
// its preStop hook is asked.
const notes = `
apiVersion: v1
kind: Service
metadata: {name: notes}
spec:
  selector: {app: notes}
  ports: [{port: 80, targetPort: web}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: notes}
spec:
  serviceName: notes
  selector: {matchLabels: {app: notes}}
  template:
    metadata: {labels: {app: notes}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: c
        image: registry.k8s.io/e2e-test-images/agnhost:2.66.1
        args: [netexec]
        ports: [{name: web, containerPort: 8080}]
        readinessProbe: {httpGet: {port: web}, periodSeconds: 1}
        lifecycle: {preStop: {httpGet: {port: web, path: "/shell?cmd=touch%20/data/hook"}}}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`

var _ = Describe("snapshots", Ordered, func() {
	const config = "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes:\n- role: control-plane\n- role: worker\n"
	var (
		c, second cluster
		start     []string
	)
	// volume is where a claim's data is on the host.
	volume := func(c cluster) string {
		GinkgoHelper()
		name := c.get("pvc/data-notes-0", "{.spec.volumeName}")
		found, err := filepath.Glob(filepath.Join("/var/lib/skiff/clusters", c.name, "volumes", "*"+name+"*"))
		Expect(err).NotTo(HaveOccurred())
		Expect(found).To(HaveLen(1))
		return found[0]
	}
	serves := func(c cluster) {
		GinkgoHelper()
		Eventually(func() error {
			_, err := fetch("http://" + c.get("service/notes", "{.spec.clusterIP}") + "/hostname")
			return err
		}).Should(Succeed())
	}
	configMaps := func(c cluster) []string {
		return strings.Fields(c.get("configmaps", "{.items[*].metadata.name}"))
	}

	BeforeAll(func() {
		var err error
		start, err = inventory()
		Expect(err).NotTo(HaveOccurred())
		var r result
		c, r = create("snap", config)
		DeferCleanup(c.delete)
		r.must()
		c.apply(notes).must()
		c.kubectl("create", "configmap", "saved").must()
		c.kubectl("create", "secret", "generic", "saved", "--from-literal=key=value").must()
		c.kubectl("label", "node", "snap-worker", "mine=yes").must()
		Eventually(func() int { return c.kubectl("wait", "pod/notes-0", "--for=condition=Ready", "--timeout=5s").code }).Should(BeZero())
		second = cluster{name: "snap2", kubeconfig: filepath.Join(os.TempDir(), "skiff-e2e-snap2.kubeconfig")}
		DeferCleanup(second.delete)
		DeferCleanup(func() { skiff("snapshot", "delete", "e2e-one") })
	})

	It("are taken of a running cluster in less than a second", func() {
		r := skiff("snapshot", "create", "e2e-one", "--name", c.name)
		Expect(r.must()).To(Equal("e2e-one\n"))
		Expect(r.took).To(BeNumerically("<", time.Second))
		Expect(skiff("snapshot", "list").must()).To(MatchRegexp(`(?m)^e2e-one +snap +2 +\d+ +\S+ +\d+s +v1\.37`))
		info, err := os.Stat("/var/lib/skiff/snapshots/e2e-one")
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(BeEquivalentTo(0o700))
	})

	It("bring the objects back, and leave volumes as they are", func() {
		c.kubectl("delete", "configmap", "saved").must()
		c.kubectl("delete", "secret", "saved").must()
		c.kubectl("create", "configmap", "later").must()
		dir := volume(c)
		Expect(os.WriteFile(filepath.Join(dir, "later"), []byte("kept"), 0o644)).To(Succeed())
		raw, err := os.ReadFile(c.kubeconfig)
		Expect(err).NotTo(HaveOccurred())

		skiff("snapshot", "restore", "e2e-one", "--kubeconfig", c.kubeconfig).must()
		Expect(os.ReadFile(c.kubeconfig)).To(Equal(raw), "the kubeconfig is the same")
		Expect(configMaps(c)).To(ConsistOf("kube-root-ca.crt", "saved"))
		Expect(c.get("secret/saved", "{.data.key}")).To(Equal("dmFsdWU="))
		Expect(os.ReadFile(filepath.Join(dir, "later"))).To(BeEquivalentTo("kept"))
		Expect(filepath.Join(dir, "hook")).To(BeAnExistingFile(), "the preStop hook was asked when the cluster stopped")
		c.kubectl("wait", "pod/notes-0", "--for=condition=Ready", "--timeout=20s").must()
		serves(c)
	})

	It("say which volumes are gone since, and begin them empty", func() {
		dir := volume(c)
		c.kubectl("delete", "statefulset/notes", "pvc/data-notes-0", "--wait=true").must()
		Eventually(func() string { return dir }).ShouldNot(BeAnExistingFile())
		r := skiff("snapshot", "restore", "e2e-one", "--kubeconfig", c.kubeconfig)
		r.must()
		Expect(r.errOut).To(ContainSubstring("Note: volume " + filepath.Base(dir) + " was gone: it begins empty"))
		Expect(os.ReadDir(dir)).To(BeEmpty())
		c.kubectl("wait", "pod/notes-0", "--for=condition=Ready", "--timeout=20s").must()
		serves(c)
	})

	It("make another cluster beside the first", func() {
		nodes := c.get("nodes", "{.items[*].metadata.uid}")
		skiff("snapshot", "restore", "e2e-one", "--name", second.name, "--kubeconfig", second.kubeconfig).must()
		Expect(configMaps(second)).To(ConsistOf("kube-root-ca.crt", "saved"))
		Expect(second.get("secret/saved", "{.data.key}")).To(Equal("dmFsdWU="))
		Expect(second.get("nodes", "{.items[*].metadata.name}")).To(Equal("snap2-control-plane snap2-worker"))
		Expect(second.get("node/snap2-worker", "{.metadata.labels.mine} {.metadata.labels.kubernetes\\.io/hostname}")).To(Equal("yes snap2-worker"))
		second.kubectl("wait", "pod/notes-0", "--for=condition=Ready", "--timeout=20s").must()
		Expect(second.get("pod/notes-0", "{.metadata.uid} {.spec.nodeName}")).To(Equal(c.get("pod/notes-0", "{.metadata.uid}") + " snap2-worker"))
		Expect(second.get("service/notes", "{.spec.clusterIP}")).NotTo(Equal(c.get("service/notes", "{.spec.clusterIP}")))
		serves(second)
		Expect(filepath.Join(volume(second), "later")).NotTo(BeAnExistingFile(), "volumes begin empty")
		second.kubectl("create", "service", "clusterip", "new", "--tcp=80").must()
		// The first has noticed nothing.
		serves(c)
		Expect(c.get("nodes", "{.items[*].metadata.uid}")).To(Equal(nodes))
		second.delete().must()
	})

	It("go to another host as one file", func() {
		file := filepath.Join(GinkgoT().TempDir(), "one.tar.gz")
		Expect(skiff("snapshot", "export", "e2e-one", file).must()).To(Equal(file + "\n"))
		info, err := os.Stat(file)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(BeEquivalentTo(0o600))
		skiff("snapshot", "delete", "e2e-one").must()

		raw, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		raw[len(raw)/2] ^= 1
		damaged := filepath.Join(GinkgoT().TempDir(), "damaged.tar.gz")
		Expect(os.WriteFile(damaged, raw, 0o600)).To(Succeed())
		r := skiff("snapshot", "import", damaged)
		Expect(r.code).NotTo(BeZero())
		Expect(r.errOut).To(And(ContainSubstring(damaged), ContainSubstring("damaged"), ContainSubstring("Mend:")))

		Expect(skiff("snapshot", "import", file).must()).To(Equal("e2e-one\n"))
		skiff("snapshot", "restore", "e2e-one", "--name", second.name, "--kubeconfig", second.kubeconfig).must()
		Expect(configMaps(second)).To(ContainElement("saved"))
		second.delete().must()
	})

	It("are restored or not, but not half, after kill -9", func() {
		for _, after := range []time.Duration{100, 400, 900, 1400} {
			marker := fmt.Sprintf("marker-%d", after)
			c.kubectl("create", "configmap", marker).must()
			cmd := exec.Command(filepath.Join(root, "bin/skiff"), "snapshot", "restore", "e2e-one", "--now", "--kubeconfig", c.kubeconfig)
			Expect(cmd.Start()).To(Succeed())
			time.Sleep(after * time.Millisecond)
			_ = cmd.Process.Signal(syscall.SIGKILL)
			_ = cmd.Wait()
			skiff("start", "cluster", "--name", c.name).must()
			Expect(configMaps(c)).To(Or(ConsistOf("kube-root-ca.crt", "saved"), ConsistOf("kube-root-ca.crt", "saved", marker)))
			Expect(filepath.Join("/var/lib/skiff/clusters", c.name, "restore")).NotTo(BeAnExistingFile())
			c.kubectl("delete", "configmap", marker, "--ignore-not-found").must()
		}
	})

	It("leave nothing behind", func() {
		c.delete().must()
		skiff("snapshot", "delete", "e2e-one").must()
		expectNothingLeft(start)
	})
})
