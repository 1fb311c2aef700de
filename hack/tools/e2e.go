//go:build tools

package tools

// Programs that are built from their modules but imported by nobody.
import (
	_ "github.com/cilium/ebpf/cmd/bpf2go"
	_ "github.com/opencontainers/runc"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost"
)
