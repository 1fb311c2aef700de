package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// What upstream's own specs of volumes leave out, or need a server for.
var _ = Describe("kinds of volumes", Ordered, func() {
	const node = "e2e-worker"
	pod := func(name, command, volume string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: kinds-%[1]s, labels: {kinds: pod}}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: %[2]s}
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-2
    command: [sh, -c, %[3]q]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, %[4]s}]
---
`, name, node, command+" && exec sleep 1000", volume)
	}
	warnings := func(name string) func() string {
		return func() string {
			return shared.warnings("pod/kinds-" + name)
		}
	}
	AfterAll(func() {
		shared.kubectl("delete", "pod", "-l", "kinds=pod", "--wait=true").must()
	})

	It("flexVolume: by a script that a Pod installs", func() {
		const driver = `#!/bin/sh
case $1 in
init) echo '{"status": "Success", "capabilities": {"attach": false}}' ;;
mount) mkdir -p "$2" && mount -t tmpfs script "$2" && echo "$3" > "$2/options" && echo '{"status": "Success"}' ;;
unmount) umount "$2" && echo '{"status": "Success"}' ;;
*) echo '{"status": "Not supported"}' ;;
esac
`
		shared.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kinds-driver}\ndata:\n  script: |\n    " + strings.ReplaceAll(driver, "\n", "\n    ")).must()
		DeferCleanup(func() { shared.kubectl("delete", "configmap", "kinds-driver").must() })
		// Renamed into its place when it is whole, as upstream asks of installers.
		shared.apply(strings.Replace(pod("install",
			"cd /data && mkdir -p .new && cp /driver/script .new/script && chmod 755 .new/script && mv .new example.com~script",
			"hostPath: {path: /var/lib/kubelet/volume-plugins, type: Directory}}, {name: driver, configMap: {name: kinds-driver}"),
			"mountPath: /data}", "mountPath: /data}, {name: driver, mountPath: /driver}", 1)).must()
		shared.kubectl("wait", "pod/kinds-install", "--for=condition=Ready", "--timeout=60s").must()
		shared.apply(pod("flex", "true", "flexVolume: {driver: example.com/script, options: {share: precious}}")).must()
		shared.kubectl("wait", "pod/kinds-flex", "--for=condition=Ready", "--timeout=60s").must()
		Expect(shared.kubectl("exec", "kinds-flex", "--", "cat", "/data/options").must()).To(ContainSubstring(`"share":"precious"`))
		shared.kubectl("delete", "pod", "kinds-flex", "--wait=true").must()
		shared.kubectl("exec", "kinds-install", "--", "rm", "-r", "/data/example.com~script").must()
	})

	It("what the host lacks is said by an Event", func() {
		manifest := pod("nfs", "true", "nfs: {server: 127.0.0.1, path: /export}") +
			pod("iscsi", "true", "iscsi: {targetPortal: '127.0.0.1:3260', iqn: 'iqn.2001-04.com.example:storage', lun: 0}") +
			pod("fc", "true", "fc: {targetWWNs: ['50060e801049cfd1'], lun: 0}") +
			pod("flex-missing", "true", "flexVolume: {driver: example.com/missing}")
		for _, v := range removed {
			manifest += pod(v.kind, "true", v.inline)
		}
		shared.apply(manifest).must()
		known, err := os.ReadFile("/proc/filesystems")
		Expect(err).NotTo(HaveOccurred())
		hasClass := func(class string) bool {
			devices, err := os.ReadDir("/sys/class/" + class)
			return err == nil && len(devices) > 0
		}
		for _, host := range []struct {
			kind, reason string
			has          bool
		}{
			{"nfs", "the host has no mount.nfs", inPath("mount.nfs")},
			{"nfs", "the host's kernel has no file system nfs", strings.Contains(string(known), "\tnfs\n")},
			{"iscsi", "the host has no iscsiadm", inPath("iscsiadm")},
			{"iscsi", "the host's kernel has no iSCSI initiator", hasClass("iscsi_transport")},
			{"fc", "the host has no Fibre Channel adapter", hasClass("fc_host")},
		} {
			// Nothing serves the volumes, so there is an Event in any case.
			Eventually(warnings(host.kind)).WithTimeout(2*time.Minute).Should(ContainSubstring("MountVolume."), host.kind)
			if host.has {
				Expect(warnings(host.kind)()).NotTo(ContainSubstring(host.reason))
			} else {
				Expect(warnings(host.kind)()).To(ContainSubstring(host.reason))
			}
		}
		Expect(warnings("fc")()).To(ContainSubstring("no fc disk found"))
		Eventually(warnings("flex-missing")).WithTimeout(time.Minute).Should(ContainSubstring("no volume plugin matched"))
		for _, v := range removed {
			Eventually(warnings(v.kind)).WithTimeout(time.Minute).Should(ContainSubstring("no volume plugin matched"), v.kind)
		}
	})
})

// inPath says whether the host has a program, where nodes look.
func inPath(name string) bool {
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}
