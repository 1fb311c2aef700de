package sandbox

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sysctl is a kernel parameter to be set.
type sysctl struct{ file, value string }

// sysctls are the pod's kernel parameters: the ones it asks for, and what
// every pod gets, so that containers without privileges may bind port 80 and
// send a ping. Those of the network namespace come apart from those of the
// others. One that is no pod's own is refused: it would be the host's.
func sysctls(config *runtimeapi.PodSandboxConfig) (network, others []sysctl, err error) {
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	flags := namespaces(options)
	ownNetwork := options.GetNetwork() != runtimeapi.NamespaceMode_NODE
	wanted := map[string]string{}
	if ownNetwork {
		wanted["net/ipv4/ip_unprivileged_port_start"] = "0"
		// Group ids of a user namespace do not reach that far.
		if flags&unix.CLONE_NEWUSER == 0 {
			wanted["net/ipv4/ping_group_range"] = "0 2147483647"
		}
	}
	for name, value := range config.GetLinux().GetSysctls() {
		wanted[sysctlPath(name)] = value
	}
	for _, path := range slices.Sorted(maps.Keys(wanted)) {
		s := sysctl{filepath.Join("/proc/sys", path), wanted[path]}
		switch {
		case strings.HasPrefix(path, "net/") && ownNetwork:
			network = append(network, s)
		case isIPC(path) && flags&unix.CLONE_NEWIPC != 0:
			others = append(others, s)
		default:
			return nil, nil, fmt.Errorf("sysctl %s: the pod has no namespace of its own for it", path)
		}
	}
	return network, others, nil
}

// sysctlPath is a parameter's path below /proc/sys. Both notations are in use:
// net.ipv4.conf.eth0/1.arp_filter and net/ipv4/conf/eth0.1/arp_filter.
func sysctlPath(name string) string {
	if first := strings.IndexAny(name, "./"); first >= 0 && name[first] == '.' {
		name = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	return strings.TrimPrefix(filepath.Clean("/"+name), "/")
}

// isIPC says whether a parameter belongs to the IPC namespace.
func isIPC(path string) bool {
	if strings.HasPrefix(path, "fs/mqueue/") {
		return true
	}
	switch path {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem",
		"kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced":
		return true
	}
	return false
}
