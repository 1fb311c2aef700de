package cni

import (
	"context"
	"fmt"
	"net/netip"

	gocni "github.com/containerd/go-cni"
)

// Pod is a pod that is about to get its cable.
type Pod struct {
	// Namespace, Name and UID are as the kubelet has them.
	Namespace, Name, UID string
	Addrs                []netip.Addr
}

// admit tells Config.Admit of a sandbox's pod before it can send or receive.
// A sandbox that CRI made for no pod concerns nobody.
func (p *Plugin) admit(ctx context.Context, opts []gocni.NamespaceOpts, addrs []netip.Addr) error {
	if p.cfg.Admit == nil {
		return nil
	}
	_, labels, err := arguments(opts)
	if err != nil {
		return err
	}
	pod := Pod{Namespace: labels["K8S_POD_NAMESPACE"], Name: labels["K8S_POD_NAME"], UID: labels["K8S_POD_UID"], Addrs: addrs}
	if pod.Name == "" {
		return nil
	}
	if err := p.cfg.Admit(ctx, pod); err != nil {
		return fmt.Errorf("admit the pod: %w", err)
	}
	return nil
}

// dismiss tells Config.Dismiss that addresses are nobody's again.
func (p *Plugin) dismiss(addrs []netip.Addr) {
	if p.cfg.Dismiss != nil {
		p.cfg.Dismiss(addrs)
	}
}
