package cni_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	gocni "github.com/containerd/go-cni"

	"github.com/skiff-k8s/skiff/dataplane/cni"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

func TestAPodIsAdmittedBeforeItIsPlugged(t *testing.T) {
	fabrictest.Root(t)
	home := newNetwork(t, fabrictest.NewHost(t).Netns).nodes[0]
	var (
		verdict   error
		admitted  []cni.Pod
		plugged   []string
		dismissed []netip.Addr
	)
	var plugin *cni.Plugin
	must(t, fabric.Do(home.netns, func() (err error) {
		plugin, err = cni.New(cni.Config{
			PodCIDRs: home.PodCIDRs, NodeIPs: home.IPs, StateDir: t.TempDir(),
			Admit: func(_ context.Context, pod cni.Pod) error {
				admitted = append(admitted, pod)
				plugged = devices(t, home)
				return verdict
			},
			Dismiss: func(addrs []netip.Addr) { dismissed = append(dismissed, addrs...) },
		})
		return err
	}))
	t.Cleanup(plugin.Close)
	p := home.newPod(t)
	setup := func(labels map[string]string) error {
		_, err := plugin.Setup(t.Context(), p.id, p.netns, gocni.WithLabels(labels))
		return err
	}
	labels := map[string]string{"K8S_POD_NAMESPACE": "x", "K8S_POD_NAME": "a", "K8S_POD_UID": "u"}

	verdict = errors.New("not yet")
	if err := setup(labels); !errors.Is(err, verdict) {
		t.Errorf("a pod that is refused: %v", err)
	}
	if len(admitted) != 1 || admitted[0].Namespace != "x" || admitted[0].Name != "a" || admitted[0].UID != "u" || len(admitted[0].Addrs) != 1 {
		t.Fatalf("admitted %+v", admitted)
	}
	if len(plugged) != 0 || len(devices(t, home)) != 0 {
		t.Errorf("a pod that is refused has a device: before %v, after %v", plugged, devices(t, home))
	}
	if !slices.Equal(dismissed, admitted[0].Addrs) {
		t.Errorf("dismissed %v, admitted %v", dismissed, admitted[0].Addrs)
	}

	verdict, dismissed = nil, nil
	must(t, setup(labels))
	if len(devices(t, home)) != 1 || len(dismissed) != 0 {
		t.Errorf("devices %v, dismissed %v", devices(t, home), dismissed)
	}
	must(t, plugin.Remove(t.Context(), p.id, p.netns))
	must(t, plugin.Remove(t.Context(), p.id, p.netns))
	if !slices.Equal(dismissed, admitted[1].Addrs) {
		t.Errorf("dismissed %v, admitted %v", dismissed, admitted[1].Addrs)
	}

	must(t, setup(nil))
	if len(admitted) != 2 {
		t.Errorf("a sandbox of no pod was asked about: %+v", admitted[2:])
	}
}
