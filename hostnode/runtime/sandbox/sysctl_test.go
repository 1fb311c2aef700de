package sandbox

import (
	"fmt"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSysctls(t *testing.T) {
	const defaults = "net/ipv4/ip_unprivileged_port_start=0 net/ipv4/ping_group_range=0 2147483647"
	pod := runtimeapi.NamespaceOption{}
	for _, c := range []struct {
		name    string
		options *runtimeapi.NamespaceOption
		asked   map[string]string
		network string
		others  string
		refused bool
	}{
		{name: "every pod", network: defaults},
		{name: "the pod's own wins", asked: map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024"},
			network: "net/ipv4/ip_unprivileged_port_start=1024 net/ipv4/ping_group_range=0 2147483647"},
		{name: "in either notation", asked: map[string]string{"net/ipv4/ip_unprivileged_port_start": "7", "net.ipv4.conf.eth0/1.arp_filter": "1"},
			network: "net/ipv4/conf/eth0.1/arp_filter=1 net/ipv4/ip_unprivileged_port_start=7 net/ipv4/ping_group_range=0 2147483647"},
		{name: "IPC", asked: map[string]string{"kernel.shmmax": "1", "fs.mqueue.msg_max": "2"},
			network: defaults, others: "fs/mqueue/msg_max=2 kernel/shmmax=1"},
		{name: "host network", options: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}},
		{name: "network parameter of a pod with host network", options: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
			asked: map[string]string{"net.ipv4.ip_forward": "1"}, refused: true},
		{name: "IPC parameter of a pod with host IPC", options: &runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_NODE},
			asked: map[string]string{"kernel.shmmax": "1"}, refused: true},
		{name: "parameter of the whole host", asked: map[string]string{"vm.swappiness": "1"}, refused: true},
		{name: "way out of /proc/sys/net", asked: map[string]string{"net/../vm/swappiness": "1"}, refused: true},
		{name: "user namespace", options: &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}},
			network: "net/ipv4/ip_unprivileged_port_start=0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := c.options
			if options == nil {
				options = &pod
			}
			network, others, err := sysctls(&runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{
				Sysctls:         c.asked,
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: options},
			}})
			if (err != nil) != c.refused {
				t.Fatalf("error %v", err)
			}
			if err == nil && (text(network) != c.network || text(others) != c.others) {
				t.Errorf("network %q, others %q", text(network), text(others))
			}
		})
	}
}

func text(all []sysctl) (out string) {
	for n, s := range all {
		if n > 0 {
			out += " "
		}
		out += fmt.Sprintf("%s=%s", s.file[len("/proc/sys/"):], s.value)
	}
	return out
}
