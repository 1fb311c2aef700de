package loadbalancer_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/utils/ptr"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/loadbalancer"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

// prefixes reads ranges separated by commas.
func prefixes(text string) []netip.Prefix {
	var ranges []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		ranges = append(ranges, netip.MustParsePrefix(part))
	}
	return ranges
}

// run runs all controllers with a LoadBalancer range until the test ends.
func run(t *testing.T, ranges string) {
	t.Helper()
	apitest.RunWith(t, controllers.Config{ControlPlane: machinev1alpha1.ControlPlaneConfiguration{LoadBalancerSubnets: prefixes(ranges)}})
}

// bench is a namespace with what a user does in it.
type bench struct {
	*testing.T
	api *apitest.API
	ns  string
}

func newBench(t *testing.T) bench {
	api := apitest.Server(t)
	b := bench{t, api, api.Namespace(t)}
	t.Cleanup(b.clear)
	return b
}

// clear removes all Services, whether a controller is left to release them or
// not: the next test begins with free ranges.
func (b bench) clear() {
	ctx := context.Background()
	services := b.api.Client.CoreV1().Services(b.ns)
	apitest.Eventually(b, func() string {
		list, err := services.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, s := range list.Items {
			_, err := services.Patch(ctx, s.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			if err == nil {
				err = services.Delete(ctx, s.Name, metav1.DeleteOptions{})
			}
			if err != nil && !apierrors.IsNotFound(err) {
				return err.Error()
			}
		}
		return strings.Repeat("left", len(list.Items))
	})
}

func (b bench) create(name string, changes ...func(*corev1.Service)) {
	b.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	for _, change := range changes {
		change(svc)
	}
	if _, err := b.api.Client.CoreV1().Services(b.ns).Create(b.Context(), svc, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
}

func (b bench) get(name string) (*corev1.Service, error) {
	return b.api.Client.CoreV1().Services(b.ns).Get(b.Context(), name, metav1.GetOptions{})
}

func (b bench) patch(name, patch string) {
	b.Helper()
	if _, err := b.api.Client.CoreV1().Services(b.ns).Patch(b.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
}

func (b bench) delete(name string) {
	b.Helper()
	if err := b.api.Client.CoreV1().Services(b.ns).Delete(b.Context(), name, metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
}

func addrs(svc *corev1.Service) string {
	var ips []string
	for _, i := range svc.Status.LoadBalancer.Ingress {
		ips = append(ips, i.IP)
	}
	return strings.Join(ips, ",")
}

// has waits until the Service has these addresses.
func (b bench) has(name, want string) time.Duration {
	b.Helper()
	return apitest.Eventually(b, func() string {
		svc, err := b.get(name)
		if err != nil {
			return err.Error()
		}
		if got := addrs(svc); got != want || !servicehelper.HasLBFinalizer(svc) {
			return fmt.Sprintf("%s has %q and finalizers %v, want %q", name, got, svc.Finalizers, want)
		}
		return ""
	})
}

// events waits until the Service has had these, first ones first.
func (b bench) events(name string, want ...string) {
	b.Helper()
	apitest.Eventually(b, func() string {
		list, err := b.api.Client.CoreV1().Events(b.ns).List(b.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err.Error()
		}
		var got []string
		for _, e := range list.Items {
			if e.Source.Component == "service-controller" {
				got = append(got, e.Type+" "+e.Reason+": "+e.Message)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			return fmt.Sprintf("events of %s are %q, want %q", name, got, want)
		}
		return ""
	})
}

func (b bench) gone(name string) time.Duration {
	b.Helper()
	return apitest.Eventually(b, func() string {
		if svc, err := b.get(name); !apierrors.IsNotFound(err) {
			return fmt.Sprint(svc, err)
		}
		return ""
	})
}

const (
	ensuring = "Normal EnsuringLoadBalancer: Ensuring load balancer"
	ensured  = "Normal EnsuredLoadBalancer: Ensured load balancer"
	deleting = "Normal DeletingLoadBalancer: Deleting load balancer"
	deleted  = "Normal DeletedLoadBalancer: Deleted load balancer"
)

func asks(ips string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations[loadbalancer.AddressesAnnotation] = ips }
}

func refused(why string) string {
	return "Warning SyncLoadBalancerFailed: Error syncing load balancer: failed to ensure load balancer: " + why
}

// TestLife follows Services: an address, with the class and without; another
// type; again; the end.
func TestLife(t *testing.T) {
	run(t, "172.31.0.0/24")
	b := newBench(t)
	b.create("a")
	t.Log("address after", b.has("a", "172.31.0.1"))
	b.create("b", func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To(loadbalancer.Class) })
	b.create("other", func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/lb") })
	b.has("b", "172.31.0.2")
	a, err := b.get("a")
	if err != nil {
		t.Fatal(err)
	}
	if mode := a.Status.LoadBalancer.Ingress[0].IPMode; mode == nil || *mode != corev1.LoadBalancerIPModeVIP {
		t.Errorf("ipMode %v", mode)
	}
	if a.Spec.Ports[0].NodePort == 0 {
		t.Error("no node port")
	}
	b.events("a", ensuring, ensured)

	b.patch("a", `{"spec":{"type":"ClusterIP"}}`)
	t.Log("released after", apitest.Eventually(t, func() string {
		svc, err := b.get("a")
		if err != nil || len(svc.Status.LoadBalancer.Ingress) > 0 || len(svc.Finalizers) > 0 {
			return fmt.Sprint(svc, err)
		}
		return ""
	}))
	b.events("a", ensuring, ensured, deleting, deleted)
	b.create("c")
	b.has("c", "172.31.0.1")
	b.patch("a", `{"spec":{"type":"LoadBalancer"}}`)
	b.has("a", "172.31.0.3")

	b.delete("b")
	t.Log("gone after", b.gone("b"))
	b.create("d")
	b.has("d", "172.31.0.2")
	other, err := b.get("other")
	if err != nil {
		t.Fatal(err)
	}
	if addrs(other) != "" || len(other.Finalizers) > 0 {
		t.Errorf("another's Service was touched: %v", other)
	}
}

// TestFullRange: who finds no address says so once, and gets the first that
// comes free.
func TestFullRange(t *testing.T) {
	run(t, "172.31.0.0/30")
	b := newBench(t)
	b.create("a")
	b.has("a", "172.31.0.1")
	b.create("b")
	b.has("b", "172.31.0.2")
	b.create("c")
	b.has("c", "")
	full := refused("no free address in the cluster's LoadBalancer range 172.31.0.0/30")
	b.events("c", full)
	b.patch("b", `{"metadata":{"labels":{"touched":"true"}}}`) // one more pass
	b.delete("a")
	t.Log("address after", b.has("c", "172.31.0.1"))
	b.events("c", full, ensuring, ensured)
}

// TestRequests: an address that is asked for, taken, out of range, shared.
func TestRequests(t *testing.T) {
	run(t, "172.31.0.0/24")
	b := newBench(t)
	shared := func(s *corev1.Service) { s.Annotations[loadbalancer.SharingAnnotation] = "web" }
	b.create("first", asks("172.31.0.77"), shared)
	b.has("first", "172.31.0.77")
	b.create("second", func(s *corev1.Service) {
		s.Spec.LoadBalancerIP = "172.31.0.77"
		s.Spec.Ports[0].Port = 443
	}, shared)
	b.has("second", "172.31.0.77")
	b.create("third", asks("172.31.0.77"))
	b.has("third", "")
	b.events("third", refused("requested address 172.31.0.77 is in use by Service "+b.ns+"/first"))
	b.create("far", asks("192.0.2.1"))
	b.has("far", "")
	b.events("far", refused("requested address 192.0.2.1 is not in the cluster's LoadBalancer range 172.31.0.0/24"))

	b.delete("first")
	b.delete("second")
	b.has("third", "172.31.0.77")
	b.patch("third", `{"metadata":{"annotations":{"`+loadbalancer.AddressesAnnotation+`":"172.31.0.78"}}}`)
	b.has("third", "172.31.0.78")
	b.patch("far", `{"metadata":{"annotations":null}}`)
	b.has("far", "172.31.0.1")
}

// TestNoRange: a cluster without a range says so.
func TestNoRange(t *testing.T) {
	run(t, "fd00::/64")
	b := newBench(t)
	b.create("a")
	b.events("a", refused("the cluster has no LoadBalancer range of family IPv4"))
}

// TestRestart: addresses stay with their Services while nobody watches, and
// what comes meanwhile gets others.
func TestRestart(t *testing.T) {
	var b bench
	t.Run("before", func(before *testing.T) {
		run(before, "172.31.0.0/24")
		b = newBench(t)
		b.create("a")
		b.has("a", "172.31.0.1")
		b.create("b", asks("172.31.0.9"))
		b.has("b", "172.31.0.9")
	})
	before, err := b.get("a")
	if err != nil {
		t.Fatal(err)
	}
	b.create("c")
	b.delete("b")
	run(t, "172.31.0.0/24")
	b.has("c", "172.31.0.2")
	b.gone("b")
	after, err := b.get("a")
	if err != nil {
		t.Fatal(err)
	}
	if before.ResourceVersion != after.ResourceVersion {
		t.Errorf("written again: %v", after)
	}
}

// TestBurst: many at once never get the same.
func TestBurst(t *testing.T) {
	const n = 100
	run(t, "172.31.0.0/24")
	b := newBench(t)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { b.create(fmt.Sprint("s", i)) })
	}
	group.Wait()
	t.Log("all have addresses after", apitest.Eventually(t, func() string {
		list, err := b.api.Client.CoreV1().Services(b.ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		owners := map[string]string{}
		for i := range list.Items {
			s := &list.Items[i]
			ip := addrs(s)
			if ip == "" {
				return s.Name + " has none"
			}
			if other := owners[ip]; other != "" {
				t.Fatalf("%s and %s have %s", other, s.Name, ip)
			}
			owners[ip] = s.Name
		}
		return ""
	}))
}

// TestNamespace: one with a load balancer does not wait for it.
func TestNamespace(t *testing.T) {
	run(t, "172.31.0.0/24")
	b := newBench(t)
	b.create("a")
	b.has("a", "172.31.0.1")
	if err := b.api.Client.CoreV1().Namespaces().Delete(t.Context(), b.ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	took := apitest.Eventually(t, func() string {
		if ns, err := b.api.Client.CoreV1().Namespaces().Get(t.Context(), b.ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprint(ns, err)
		}
		return ""
	})
	t.Log("gone after", took)
	if took > time.Second {
		t.Errorf("namespace gone after %v", took)
	}
}
