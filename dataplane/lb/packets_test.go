package lb

import (
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

// hasFilters says whether programs are at both sides of a device.
func hasFilters(t *testing.T, device string) bool {
	t.Helper()
	l, err := netlink.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := fabric.Dump(func() ([]netlink.Filter, error) { return netlink.FilterList(l, parent) })
		if err != nil {
			t.Fatal(err)
		}
		n += len(filters)
	}
	return n == 2
}

func TestPodsGetProgramsForSCTPWhenThereIsSome(t *testing.T) {
	for name, ask := range map[string]func(*cluster, *Loader){
		"a Service": func(c *cluster, _ *Loader) {
			c.service(&corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: "phones"},
				Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "sip", Port: 5060, Protocol: corev1.ProtocolSCTP}}},
			})
		},
		"a host port": func(c *cluster, l *Loader) {
			if err := l.HostPorts([]HostPort{{Protocol: "sctp", Port: 5060, PodIP: nodeAddr.Next(), PodPort: 5060}}, true); err != nil {
				c.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			here, pods := sandbox.Here(t), sandbox.NewNamespace(t)
			sandbox.Cable(t, here, "up0", pods, "up")
			sandbox.Address(t, "up0", nodeAddr.String()+"/32")
			for _, pod := range []string{"pod0", "pod1", "pod2"} {
				sandbox.Cable(t, here, pod, pods, "of-"+pod)
			}
			l, stop := c.run()
			defer stop()
			if err := l.PodConnected("pod0"); err != nil {
				t.Error(err)
			}
			if hasFilters(t, "pod0") {
				t.Error("a pod has programs although nothing is of SCTP")
			}
			ask(c, l)
			for start := time.Now(); !hasFilters(t, "pod0") || !hasFilters(t, "pod1"); time.Sleep(5 * time.Millisecond) {
				if time.Since(start) > 10*time.Second {
					t.Fatal("pods that are there get no programs")
				}
			}
			sandbox.Cable(t, here, "pod3", pods, "of-pod3")
			if hasFilters(t, "pod3") {
				t.Error("a new pod has programs before it is told of")
			}
			if err := l.PodConnected("pod3"); err != nil || !hasFilters(t, "pod3") {
				t.Errorf("a new pod has no programs: %v", err)
			}
		})
	}
}

func TestPodsOfOtherNetworksAreFound(t *testing.T) {
	c := newCluster(t)
	c.foreignPods = true
	here, pods := sandbox.Here(t), sandbox.NewNamespace(t)
	sandbox.Cable(t, here, "up0", pods, "up")
	sandbox.Address(t, "up0", nodeAddr.String()+"/32")
	l, stop := c.run()
	defer stop()
	if err := l.HostPorts([]HostPort{{Protocol: "sctp", Port: 5060, PodIP: nodeAddr.Next(), PodPort: 5060}}, true); err != nil {
		t.Fatal(err)
	}
	sandbox.Cable(t, here, "veth0", pods, "of-veth0")
	for start := time.Now(); !hasFilters(t, "veth0"); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("a pod's device that came has no programs")
		}
	}
}
