package endpointslice_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

// world is one namespace with Services and Pods.
type world struct {
	*testing.T
	api *apitest.API
	ns  string
}

func (w world) service(name string, change func(*corev1.Service)) {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}
	if change != nil {
		change(s)
	}
	if _, err := w.api.Client.CoreV1().Services(w.ns).Create(w.Context(), s, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w world) pod(name, ip string, ready bool, change func(*corev1.Pod)) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}}, Spec: apitest.PodSpec()}
	p.Spec.NodeName = "slices"
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	if change != nil {
		change(p)
	}
	if _, err := w.api.Client.CoreV1().Pods(w.ns).Create(w.Context(), p, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.api.SetStatus(w, w.ns, name, apitest.Running(ip, ready))
}

// Dump prints all slices, without what is random.
func (w world) Dump() string {
	list, err := w.api.Client.DiscoveryV1().EndpointSlices(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	var lines []string
	for _, s := range list.Items {
		var ports []string
		for _, p := range s.Ports {
			ports = append(ports, fmt.Sprintf("%s:%d/%s", ptr.Deref(p.Name, ""), ptr.Deref(p.Port, 0), ptr.Deref(p.Protocol, "")))
		}
		head := fmt.Sprintf("%s %s %s owner=%s labels=%v", s.Labels[discoveryv1.LabelServiceName], s.AddressType, ports, s.OwnerReferences[0].Name, s.Labels)
		lines = append(lines, fmt.Sprintf("%s endpoints=%d", head, len(s.Endpoints)))
		for _, e := range s.Endpoints {
			lines = append(lines, fmt.Sprintf("%s %s: node=%s zone=%s ready=%v serving=%v terminating=%v hostname=%s pod=%s", s.Labels[discoveryv1.LabelServiceName],
				e.Addresses, ptr.Deref(e.NodeName, ""), ptr.Deref(e.Zone, ""),
				*e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating, ptr.Deref(e.Hostname, ""), e.TargetRef.Name))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// until waits for a part of the dump.
func (w world) until(part string) time.Duration {
	w.Helper()
	return apitest.Until(w, part)
}

// scenarios leave a world behind that is compared with upstream's.
var scenarios = map[string]func(w world){
	"ready, unready, without address, ended": func(w world) {
		w.service("web", nil)
		w.pod("a", "10.0.0.1", true, nil)
		w.pod("b", "10.0.0.2", false, nil)
		w.pod("c", "", true, nil)
		w.pod("d", "10.0.0.4", true, nil)
		status := apitest.Running("10.0.0.4", false)
		status.Phase = corev1.PodSucceeded
		w.until("[10.0.0.4]")
		w.api.SetStatus(w, w.ns, "d", status)
		w.until("endpoints=2")
	},
	"Pods before their Service, headless with host names": func(w world) {
		w.pod("a", "10.0.0.1", true, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "host-a", "web" })
		w.pod("b", "10.0.0.2", false, nil)
		w.service("web", func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.PublishNotReadyAddresses = corev1.ClusterIPNone, true
		})
		w.until("endpoints=2")
	},
	"terminating Pods serve on": func(w world) {
		w.service("web", nil)
		w.pod("a", "10.0.0.1", true, func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](30) })
		w.until("ready=true")
		if err := w.api.Client.CoreV1().Pods(w.ns).Delete(w.Context(), "a", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("ready=false serving=true terminating=true")
	},
	"labels of a Pod and selectors of Services change": func(w world) {
		w.service("web", nil)
		w.service("other", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "other"} })
		w.pod("a", "10.0.0.1", true, nil)
		w.pod("b", "10.0.0.2", true, nil)
		w.until("web IPv4 [http:8080/TCP]")
		w.patch("pods", "b", `{"metadata":{"labels":{"app":"other"}}}`)
		w.until("other [10.0.0.2]")
		w.patch("services", "web", `{"spec":{"selector":{"app":"none"}}}`)
		w.until("web IPv4 []")
	},
	"no selector, and a name elsewhere": func(w world) {
		w.service("free", func(s *corev1.Service) { s.Spec.Selector = nil })
		w.service("name", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		})
		w.service("web", nil)
		w.pod("a", "10.0.0.1", true, nil)
		w.until("[10.0.0.1]")
	},
	"a hundred and fifty Pods": func(w world) {
		w.service("web", nil)
		for i := range 150 {
			w.pod(fmt.Sprintf("p%03d", i), fmt.Sprintf("10.0.1.%d", i), true, nil)
		}
		apitest.Eventually(w, func() string {
			if d := w.Dump(); strings.Count(d, "ready=true") != 150 {
				return d
			}
			return ""
		})
	},
	"ports with the same name that differ": func(w world) {
		w.service("web", nil)
		w.pod("a", "10.0.0.1", true, nil)
		w.pod("b", "10.0.0.2", true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 })
		w.until("http:9090/TCP")
		w.until("http:8080/TCP")
	},
	"a slice that somebody deletes or spoils comes back": func(w world) {
		w.service("web", nil)
		w.pod("a", "10.0.0.1", true, nil)
		w.until("[10.0.0.1]")
		list := w.api.Client.DiscoveryV1().EndpointSlices(w.ns)
		if err := list.DeleteCollection(w.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("[10.0.0.1]")
		found, err := list.List(w.Context(), metav1.ListOptions{})
		if err != nil {
			w.Fatal(err)
		}
		spoiled := found.Items[0]
		spoiled.Endpoints[0].Addresses = []string{"10.9.9.9"}
		if _, err := list.Update(w.Context(), &spoiled, metav1.UpdateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("[10.0.0.1]: node=slices zone=z1 ready=true")
	},
	"a Service that goes takes its slices along, one that returns gets new ones": func(w world) {
		w.service("web", nil)
		w.pod("a", "10.0.0.1", true, nil)
		w.until("[10.0.0.1]")
		if err := w.api.Client.CoreV1().Services(w.ns).Delete(w.Context(), "web", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		apitest.Eventually(w, w.Dump)
		w.service("web", nil)
		w.until("[10.0.0.1]")
	},
	"hints for zones": func(w world) {
		w.service("web", func(s *corev1.Service) {
			s.Spec.TrafficDistribution = ptr.To(corev1.ServiceTrafficDistributionPreferClose)
		})
		w.pod("a", "10.0.0.1", true, nil)
		w.until("zone=z1")
	},
}

func (w world) patch(resource, name, patch string) {
	w.Helper()
	err := w.api.Client.CoreV1().RESTClient().Patch(types.MergePatchType).Namespace(w.ns).Resource(resource).Name(name).Body([]byte(patch)).Do(w.Context()).Error()
	if err != nil {
		w.Fatal(err)
	}
}

// stage runs ours, or upstream's controllers of these names.
func stage(upstream ...string) apitest.Stage[world] {
	return func(t *testing.T) func(*testing.T) world {
		api := apitest.Run(t, upstream...)
		api.Node(t, "slices", map[string]string{corev1.LabelTopologyZone: "z1"})
		return func(t *testing.T) world {
			return world{t, api, api.Namespace(t)}
		}
	}
}

func TestAsUpstream(t *testing.T) {
	apitest.AsUpstream(t, scenarios, stage(), stage(names.EndpointSliceController))
}

// TestReadyInSuccession: a Pod that becomes ready while the slice's last write
// has not come back yet does not wait.
func TestReadyInSuccession(t *testing.T) {
	for who, upstream := range map[string][]string{"ours": nil, "upstream": {names.EndpointSliceController}} {
		t.Run(who, func(t *testing.T) {
			api := apitest.Run(t, upstream...)
			api.Node(t, "slices", nil)
			w := world{t, api, api.Namespace(t)}
			w.service("web", nil)
			for i := range 40 {
				w.pod(fmt.Sprintf("p%d", i), fmt.Sprintf("10.0.0.%d", i+1), false, nil)
			}
			watch, err := api.Client.DiscoveryV1().EndpointSlices(w.ns).Watch(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer watch.Stop()
			began := map[string]time.Time{}
			seen := make(chan map[string]time.Time)
			go func() {
				at := map[string]time.Time{}
				for e := range watch.ResultChan() {
					s, ok := e.Object.(*discoveryv1.EndpointSlice)
					if !ok {
						continue
					}
					for _, end := range s.Endpoints {
						if *end.Conditions.Ready && at[end.TargetRef.Name].IsZero() {
							at[end.TargetRef.Name] = time.Now()
						}
					}
					if len(at) == 40 {
						break
					}
				}
				seen <- at
			}()
			for i := range 40 {
				name := fmt.Sprintf("p%d", i)
				began[name] = time.Now()
				api.SetStatus(t, w.ns, name, apitest.Running(fmt.Sprintf("10.0.0.%d", i+1), true))
			}
			var at map[string]time.Time
			select {
			case at = <-seen:
			case <-time.After(time.Minute):
				t.Fatal(w.Dump())
			}
			var waits []time.Duration
			for name := range began {
				waits = append(waits, at[name].Sub(began[name]))
			}
			slices.Sort(waits)
			t.Logf("ready to slice: median %v, last %v", waits[20], waits[39])
		})
	}
}
