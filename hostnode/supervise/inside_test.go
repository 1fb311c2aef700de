package supervise

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
)

// inside runs a shell command in a machine, from a process of its own.
func inside(t testing.TB, name, node, script string) string {
	t.Helper()
	out, err := exec.Command("/proc/self/exe", "exec", name, node, "/bin/sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("in %s: %s: %v\n%s", node, script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestTheInsideOfAMachine(t *testing.T) {
	needRoot(t)
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "file"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := testCluster("svt-inside", 1)
	c.Nodes[1].Resources = cluster.Resources{CPU: "1", Memory: "512Mi", Pods: 10}
	c.Nodes[1].ExtraMounts = []cluster.Mount{
		{HostPath: shared, ContainerPath: "/mnt/shared"},
		{HostPath: shared, ContainerPath: "/var/run/shared-ro", ReadOnly: true},
		{HostPath: filepath.Join(shared, "file"), ContainerPath: "/opt/deep/down/file"},
	}
	create(t, c)
	const worker = "svt-inside-worker"
	run := func(script string) string { return inside(t, c.Name, worker, script) }

	t.Run("namespaces are its own", func(t *testing.T) {
		for _, ns := range []string{"mnt", "pid", "net", "uts", "ipc", "cgroup"} {
			host, err := os.Readlink("/proc/self/ns/" + ns)
			if err != nil {
				t.Fatal(err)
			}
			own := run("readlink /proc/1/ns/" + ns)
			other := inside(t, c.Name, "svt-inside-control-plane", "readlink /proc/1/ns/"+ns)
			mine := run("readlink /proc/self/ns/" + ns)
			if own == host || own == other || own != mine {
				t.Errorf("%s: host %s, machine %s, its neighbour %s, a command in it %s", ns, host, own, other, mine)
			}
		}
	})
	tests := []struct{ name, script, want string }{
		{"host name", "hostname; cat /etc/hostname", worker + "\n" + worker},
		{"host names of the cluster", "grep -c svt-inside /etc/hosts", "2"},
		{"init is process 1", "cat /proc/1/comm", "skiff-init"},
		{"orphans are reaped", "ls /proc | grep -c '^[0-9]' >/dev/null; grep -l 'State:.Z' /proc/[0-9]*/status | wc -l", "0"},
		{"tunables are shadowed", "cat /proc/sys/vm/overcommit_memory /proc/sys/kernel/panic /proc/sys/kernel/keys/root_maxbytes", "1\n10\n25000000"},
		{"tunables can be written", "echo 7 > /proc/sys/kernel/panic && cat /proc/sys/kernel/panic", "7"},
		{"programs are read-only", "touch /usr/x 2>/dev/null || echo no", "no"},
		{"configuration is read-only", "touch /etc/skiff/x 2>/dev/null || echo no; ls /etc/skiff", "no\nnode.json\npki"},
		{"a worker knows no CA key", "ls /etc/skiff/pki | grep -c 'ca.key\\|sa.key\\|encryption'; true", "0"},
		{"var is the cluster's directory", "mkdir -p /var/lib/kubelet/x && ls -d /var/lib/kubelet/x /var/lib/etcd /var/lib/containerd /var/log/skiff/node.log /var/run/skiff", "/var/lib/containerd\n/var/lib/etcd\n/var/lib/kubelet/x\n/var/log/skiff/node.log\n/var/run/skiff"},
		{"tmp is its own and open", "stat -c %a /tmp", "1777"},
		{"devices", "head -c1 /dev/zero | wc -c; echo x > /dev/kmsg; test -c /dev/tty && test -c /dev/ptmx && test -e /dev/fd/0 && echo ok", "1\nok"},
		{"message queues, shared memory, bpf", "for d in /dev/mqueue /dev/shm /sys/fs/bpf; do stat -f -c %T $d; done", "mqueue\ntmpfs\nbpf_fs"},
		{"the root propagates", "awk '$5 == \"/\" {print $7}' /proc/self/mountinfo | cut -d: -f1", "shared"},
		{"the host's root is gone", "grep -c skiff-test /proc/self/mounts; ls / | tr '\\n' ' ' | grep -c old_root; true", "0\n0"},
		{"cgroups start at its own", "cut -d: -f3 /proc/self/cgroup | sed s:^/init$:/: | sort -u", "/"},
		{"shared directory", "cat /mnt/shared/file; echo back > /mnt/shared/new; cat /opt/deep/down/file", "from the host\nfrom the host"},
		{"read-only directory through a link of the machine's", "cat /run/shared-ro/file; touch /run/shared-ro/x 2>/dev/null || echo no", "from the host\nno"},
		{"static pods' directory", "ls -d /etc/kubernetes/manifests", "/etc/kubernetes/manifests"},
		{"users and certificates", "id -un; ls -d /etc/ssl/certs", "root\n/etc/ssl/certs"},
		{"skiff's programs", "ls /skiff/libexec", "skiff-init\nskiff-machine"},
		{"loopback is up", "cat /sys/class/net/lo/flags", "0x9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(tt.script); got != tt.want {
				t.Errorf("%s\n got %q\nwant %q", tt.script, got, tt.want)
			}
		})
	}
	t.Run("limits are set", func(t *testing.T) {
		for _, pattern := range []struct{ v1, v2, want string }{
			{"/sys/fs/cgroup/*/skiff/svt-inside/%s/cpu.cfs_quota_us", "cpu.max", "100000"},
			{"/sys/fs/cgroup/*/skiff/svt-inside/%s/memory.limit_in_bytes", "memory.max", "536870912"},
			{"/sys/fs/cgroup/*/skiff/svt-inside/%s/pids.max", "pids.max", "14336"},
		} {
			files, _ := filepath.Glob(fmt.Sprintf(pattern.v1, worker))
			if len(files) == 0 {
				files = []string{"/sys/fs/cgroup/skiff/svt-inside/" + worker + "/" + pattern.v2}
			}
			data, err := os.ReadFile(files[0])
			if err != nil || !strings.HasPrefix(string(data), pattern.want) {
				t.Errorf("%s: %q, %v", files[0], data, err)
			}
		}
	})
	if data, _ := os.ReadFile(filepath.Join(shared, "new")); string(data) != "back\n" {
		t.Errorf("what the machine wrote: %q", data)
	}
	if value, _ := os.ReadFile("/proc/sys/kernel/panic"); strings.TrimSpace(string(value)) == "7" {
		t.Error("the machine changed the host's kernel.panic")
	}
	t.Run("exit codes come back", func(t *testing.T) {
		for script, want := range map[string]int{"exit 3": 3, "kill -9 $$": 137, "true": 0} {
			cmd := exec.Command("/proc/self/exe", "exec", c.Name, worker, "sh", "-c", script)
			_ = cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("%s: %d, want %d", script, got, want)
			}
		}
		out, _ := exec.Command("/proc/self/exe", "exec", c.Name, worker, "no-such-program").CombinedOutput()
		if !strings.Contains(string(out), "no such program") {
			t.Errorf("a missing program: %s", out)
		}
	})
}
