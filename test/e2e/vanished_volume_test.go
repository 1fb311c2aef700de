package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// keeper is a Pod that writes down each of its starts in its volume, and ends
// when its liveness probe fails: without what it has written, or when somebody
// removes /tmp/alive.
func keeper(name, class string, block bool) string {
	spec, volume, file := "", "volumeMounts: [{name: data, mountPath: /data}]", "/data/diary"
	command := "echo start >> /data/diary"
	if block {
		spec, volume, file = "  volumeMode: Block\n", "volumeDevices: [{name: data, devicePath: /dev/data}]", "/dev/data"
		command = `n=$(head -c 1 /dev/data | tr -d '\\0'); echo $((n + 1)) | dd of=/dev/data conv=notrunc,fsync`
	}
	return cloudClaim(name, class, rwo+"\n"+spec) + fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeSelector: {kubernetes.io/hostname: vanish-worker}
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, "%s; touch /tmp/alive; exec sleep 100000"]
    livenessProbe:
      exec: {command: [sh, -c, "head -c 1 %s && test -e /tmp/alive"]}
      periodSeconds: 1
      failureThreshold: 1
    %s
  volumes: [{name: data, %s}]
---
`, name, command, file, volume, claimOf(name))
}

// A running Pod does not notice at once that its volume was removed. When its
// container starts anew, it waits for the volume instead of beginning another.
var _ = Describe("a volume that vanishes under a running Pod", Ordered, func() {
	var (
		c cluster
		// paths are the volumes' directories as the node has them, by Pod.
		paths = map[string]string{}
		kept  string
	)
	pods := []string{"standard", "files", "device"}
	onHost := func(path string) string {
		return strings.Replace(path, "/var/lib/skiff/volumes", filepath.Join("/var/lib/skiff/clusters", c.name, "volumes"), 1)
	}
	waits := func(pod string) func() string {
		return func() string {
			return c.get("pod/"+pod, "{.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}")
		}
	}
	warnings := func(pod string) func() string {
		return func() string {
			return c.warnings("pod/" + pod)
		}
	}
	witness := func() string {
		return c.get("pod/witness", "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}")
	}
	ready := func() string { return c.get("nodes", `{.items[*].status.conditions[?(@.type=="Ready")].status}`) }
	reads := func(pod string) string {
		if pod == "device" { // of the file, not of what a container may still have
			return run("", "head", "-c", "1", filepath.Join(onHost(paths[pod]), "disk")).out
		}
		return strings.Join(strings.Fields(c.kubectl("exec", pod, "--", "cat", "/data/diary").out), " ")
	}

	restore := func() {
		for _, pod := range pods {
			run("", "cp", "-a", filepath.Join(kept, pod), onHost(paths[pod])).must()
		}
	}

	BeforeAll(func() {
		var r result
		c, r = create("vanish", "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nnodes:\n- role: control-plane\n- role: worker\n")
		DeferCleanup(c.delete)
		r.must()
		c.loadImages()
		c.apply(cloudClass("ebs", "ebs.csi.aws.com", "", rwo) + keeper("standard", "standard", false) + keeper("files", "ebs", false) +
			keeper("device", "ebs", true) + keeper("witness", "ebs", false)).must()
		c.kubectl("wait", "pod", "--all", "--for=condition=Ready", "--timeout=60s").must()
		kept = GinkgoT().TempDir()
		for _, pod := range pods {
			volume := c.get("pvc/"+pod, "{.spec.volumeName}")
			paths[pod] = "/var/lib/skiff/volumes/" + volume
			if handle := c.get("pv/"+volume, "{.spec.csi.volumeHandle}"); handle != "" {
				paths[pod] = "/var/lib/skiff/volumes/cloud/ebs.csi.aws.com/volumes/" + handle
			}
			run("", "cp", "-a", onHost(paths[pod]), filepath.Join(kept, pod)).must()
		}
	})

	It("keeps the container waiting, says which volume and where, and harms no other", func() {
		was := witness()
		for _, pod := range pods {
			Expect(reads(pod)).To(BeElementOf("start", "1"))
			Expect(os.RemoveAll(onHost(paths[pod]))).To(Succeed())
		}
		c.kubectl("exec", "device", "--", "rm", "/tmp/alive").must()
		for _, pod := range pods {
			why := fmt.Sprintf(`volume "data" (%s): %s does not exist; the container starts when it is back`, c.get("pvc/"+pod, "{.spec.volumeName}"), paths[pod])
			Eventually(waits(pod)).Should(Equal("CreateContainerConfigError: "+why), pod)
			Eventually(warnings(pod)).Should(And(ContainSubstring("Unhealthy"), MatchRegexp(`Failed .*Error: volume "data"`), ContainSubstring(why)), pod)
			Expect(c.get("pod/"+pod, "{.status.containerStatuses[0].restartCount} {.status.phase}")).To(Equal("0 Running"))
			Expect(onHost(paths[pod])).NotTo(BeAnExistingFile())
		}

		c.apply(keeper("late", "ebs", false)).must()
		c.kubectl("wait", "pod/late", "--for=condition=Ready", "--timeout=60s").must()
		Expect(witness()).To(Equal(was))
		Expect(ready()).To(Equal("True True"))
	})

	It("is mounted anew when it is back, as another directory or file with all that it had", func() {
		restore()
		for _, pod := range pods {
			// Upstream's back-off of a container may have reached minutes.
			Eventually(func() string { return reads(pod) }).WithTimeout(6*time.Minute).WithPolling(time.Second).Should(BeElementOf("start start", "2"), pod)
			c.kubectl("wait", "pod/"+pod, "--for=condition=Ready", "--timeout=60s").must()
			Expect(c.get("pod/"+pod, "{.status.containerStatuses[0].restartCount}")).To(Equal("1"))
		}
	})

	It("is not begun anew by a kubelet that restarts, or by a Pod that starts", func() {
		was := witness()
		for _, pod := range pods {
			Expect(os.RemoveAll(onHost(paths[pod]))).To(Succeed())
		}
		c.kubectl("delete", "events", "--all").must()
		c.kubectl("exec", "device", "--", "rm", "/tmp/alive").must()
		for _, pid := range c.find("skiff-machine node", "vanish-worker") {
			Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		}
		// A Pod that starts, of a volume that the cloud made: not a new volume.
		c.kubectl("delete", "pod/files", "--now").must()
		c.apply(keeper("files", "ebs", false)).must()
		for _, pod := range pods {
			Eventually(warnings(pod)).WithTimeout(2*time.Minute).Should(MatchRegexp(`Failed(Mount|MapVolume) .*`+regexp.QuoteMeta(paths[pod])), pod)
			Expect(onHost(paths[pod])).NotTo(BeAnExistingFile())
		}
		Eventually(witness).Should(Equal(was))
		Eventually(ready).Should(Equal("True True"))
	})

	It("is used when it is back after that, too, and leaves no device", func() {
		restore()
		for _, pod := range pods {
			Eventually(func() string { return reads(pod) }).WithTimeout(6*time.Minute).WithPolling(time.Second).Should(BeElementOf("start start", "2"), pod)
			c.kubectl("wait", "pod/"+pod, "--for=condition=Ready", "--timeout=60s").must()
		}
		Expect(os.RemoveAll(onHost(paths["device"]))).To(Succeed())
		c.delete().must()
		Expect(loops()).NotTo(ContainElement(ContainSubstring(filepath.Base(paths["device"]))))
	})
})
