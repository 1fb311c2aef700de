package controllers

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/config"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	garbagecollectorconfig "k8s.io/kubernetes/pkg/controller/garbagecollector/config"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// TestComponentConfig: the configuration is what kube-controller-manager makes
// of the flags that kubeadm gives it, but for the workers.
func TestComponentConfig(t *testing.T) {
	opts, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		t.Fatal(err)
	}
	all, off, aliases := app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases()
	opts.SecureServing.BindPort = 0
	sets := opts.Flags(all, off, aliases)
	for flag, value := range map[string]string{
		"allocate-node-cidrs": "true", "cluster-cidr": "10.244.0.0/16", "service-cluster-ip-range": "10.96.0.0/16",
		"service-account-private-key-file": "/pki/sa.key", "root-ca-file": "/pki/ca.crt",
		"cluster-signing-cert-file": "/pki/ca.crt", "cluster-signing-key-file": "/pki/ca.key",
	} {
		found := false
		for _, fs := range sets.FlagSets {
			if fs.Lookup(flag) != nil {
				found = true
				if err := fs.Set(flag, value); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !found {
			t.Fatalf("no flag %s", flag)
		}
	}
	want := &config.Config{}
	if err := opts.ApplyTo(want, all, off, aliases); err != nil {
		t.Fatal(err)
	}
	got, err := componentConfig(Config{PKIDir: "/pki", ControlPlane: machinev1alpha1.ControlPlaneConfiguration{
		PodSubnets:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		ServiceSubnets: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	// Not used: there is no listener, no election, no cloud, no kubeconfig.
	got.ServiceController = want.ComponentConfig.ServiceController
	got.Generic, got.KubeCloudShared.ConfigureCloudRoutes = want.ComponentConfig.Generic, want.ComponentConfig.KubeCloudShared.ConfigureCloudRoutes
	fewerWorkers(&want.ComponentConfig)
	order := func(a, b garbagecollectorconfig.GroupResource) int {
		return strings.Compare(a.Group+"/"+a.Resource, b.Group+"/"+b.Resource)
	}
	slices.SortFunc(got.GarbageCollectorController.GCIgnoredResources, order)
	slices.SortFunc(want.ComponentConfig.GarbageCollectorController.GCIgnoredResources, order)
	if !equality.Semantic.DeepEqual(got, want.ComponentConfig) {
		t.Errorf("differs from upstream's: %s", diff.Diff(want.ComponentConfig, got))
	}
}

func TestNodeRangesOfADualStackCluster(t *testing.T) {
	parse := netip.MustParsePrefix
	got, err := componentConfig(Config{PKIDir: "/pki", ControlPlane: machinev1alpha1.ControlPlaneConfiguration{
		PodSubnets:     []netip.Prefix{parse("fd00:10:244::/56"), parse("10.244.0.0/16")},
		ServiceSubnets: []netip.Prefix{parse("fd00:10:96::/112"), parse("10.96.0.0/16")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got.KubeCloudShared.ClusterCIDR != "fd00:10:244::/56,10.244.0.0/16" ||
		got.NodeIPAMController.ServiceCIDR != "fd00:10:96::/112" || got.NodeIPAMController.SecondaryServiceCIDR != "10.96.0.0/16" {
		t.Errorf("%q, %+v", got.KubeCloudShared.ClusterCIDR, got.NodeIPAMController)
	}
	// Upstream's defaults by family, a /24 and a /64, are what nodes are
	// created with; a mask of ours would be for one family only.
	if ipam := got.NodeIPAMController; ipam.NodeCIDRMaskSize != 0 || ipam.NodeCIDRMaskSizeIPv4 != 0 || ipam.NodeCIDRMaskSizeIPv6 != 0 {
		t.Errorf("mask sizes: %+v", ipam)
	}
}
