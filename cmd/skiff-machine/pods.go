package main

import (
	"context"
	"errors"
	"net/netip"

	gocni "github.com/containerd/go-cni"

	"github.com/skiff-k8s/skiff/dataplane/lb"
)

// knownPods is a pod network that tells the service loader which addresses
// each pod sends from: Services with source ranges ask it.
type knownPods struct {
	gocni.CNI
	services *lb.Loader
}

// Setup attaches a pod.
func (n knownPods) Setup(ctx context.Context, id, path string, opts ...gocni.NamespaceOpts) (*gocni.Result, error) {
	result, err := n.CNI.Setup(ctx, id, path, opts...)
	if err != nil {
		return nil, err
	}
	if err := n.services.PodAttached(path, podAddresses(result)); err != nil {
		return nil, errors.Join(err, n.CNI.Remove(ctx, id, path, opts...))
	}
	return result, nil
}

// SetupSerially is Setup: there is one network.
func (n knownPods) SetupSerially(ctx context.Context, id, path string, opts ...gocni.NamespaceOpts) (*gocni.Result, error) {
	return n.Setup(ctx, id, path, opts...)
}

// Remove cuts a pod off.
func (n knownPods) Remove(ctx context.Context, id, path string, opts ...gocni.NamespaceOpts) error {
	return errors.Join(n.services.PodDetached(path), n.CNI.Remove(ctx, id, path, opts...))
}

func podAddresses(result *gocni.Result) []netip.Addr {
	var addrs []netip.Addr
	for _, device := range result.Interfaces {
		for _, c := range device.IPConfigs {
			if a, ok := netip.AddrFromSlice(c.IP); ok && !a.Unmap().IsLoopback() {
				addrs = append(addrs, a.Unmap())
			}
		}
	}
	return addrs
}
