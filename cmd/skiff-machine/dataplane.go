package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/cni"
	"github.com/skiff-k8s/skiff/dataplane/lb"
	"github.com/skiff-k8s/skiff/dataplane/policy"
	"github.com/skiff-k8s/skiff/hostnode/agent"
)

// Where a node's loaders pin what goes on without them.
const (
	servicePins = machinev1alpha1.BPFDir + "/services"
	policyPins  = machinev1alpha1.BPFDir + "/policies"
)

// podNetwork is the node's in-process network plugin. The service loader
// serves its host ports, those of pods that outlived the last process at once;
// the policy loader has a pod's policies in force before the pod starts.
func podNetwork(node *machinev1alpha1.NodeConfiguration, services *lb.Loader, policies *policy.Loader) (*cni.Plugin, error) {
	network, err := cni.New(cni.Config{
		PodCIDRs: node.PodCIDRs, NodeIPs: node.NodeIPs, MTU: node.MTU,
		StateDir: machinev1alpha1.RunDir + "/cni",
		HostPorts: func(ports []cni.HostPort, added bool) error {
			return services.HostPorts(hostPorts(ports), added)
		},
		Connected: services.PodConnected,
		Admit: func(ctx context.Context, pod cni.Pod) error {
			return policies.Admit(ctx, policy.Admission(pod))
		},
		Dismiss: policies.Dismiss,
	})
	if err != nil {
		return nil, err
	}
	if err := services.SetHostPorts(hostPorts(network.HostPorts())); err != nil {
		network.Close()
		return nil, err
	}
	return network, nil
}

func hostPorts(ports []cni.HostPort) []lb.HostPort {
	converted := make([]lb.HostPort, 0, len(ports))
	for _, p := range ports {
		converted = append(converted, lb.HostPort(p))
	}
	return converted
}

// serviceLoader attaches the Services' programs to the machine's cgroup. A
// control plane's node also writes the maps of the cluster's switch. Its
// metrics show those of policies as well.
func serviceLoader(node *machinev1alpha1.NodeConfiguration, client kubernetes.Interface, policies *policy.Loader) (*lb.Loader, error) {
	cfg := lb.Config{
		NodeName: node.NodeName, NodeIPs: node.NodeIPs, Client: client,
		PinDir: servicePins, ForeignPods: node.ForeignCNI, Log: slog.Default(),
		HealthzAddress: lb.HealthzAddress, MetricsAddress: lb.MetricsAddress,
		Collectors: []metrics.StableCollector{policies.Collector()},
	}
	if node.ControlPlane {
		cfg.SwitchPinDir = machinev1alpha1.SwitchBPFDir
		// Whoever is the first of several writes those maps.
		cfg.SwitchShared = len(node.APIServers) > 0
	}
	return lb.New(cfg)
}

// runServices keeps the maps until ctx ends and lets go of them.
func runServices(ctx context.Context, l *lb.Loader) error {
	return errors.Join(l.Run(ctx), l.Close())
}

// policyLoader enforces NetworkPolicies for the node's pods.
func policyLoader(node *machinev1alpha1.NodeConfiguration, client kubernetes.Interface) (*policy.Loader, error) {
	return policy.New(policy.Config{
		NodeName: node.NodeName, Client: client,
		PinDir: policyPins, Log: slog.Default(),
	})
}

// dataplaneClient is the API server as user system:kube-proxy. All of a
// process share one connection.
func dataplaneClient(node *machinev1alpha1.NodeConfiguration) (kubernetes.Interface, error) {
	config, err := agent.Reach(&rest.Config{
		Host: node.APIServer,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: machinev1alpha1.CACertFile, CertFile: machinev1alpha1.DataplaneClientCertFile, KeyFile: machinev1alpha1.DataplaneClientKeyFile,
		},
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
		QPS:           -1,
	}, node.APIServers)
	if err != nil {
		return nil, fmt.Errorf("dataplane client: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("dataplane client: %w", err)
	}
	return client, nil
}
