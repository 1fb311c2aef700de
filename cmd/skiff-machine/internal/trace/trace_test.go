package trace

import (
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/lb"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
	"github.com/skiff-k8s/skiff/dataplane/policy"
)

// town is testdata/town.yaml: namespace shop on nodes n1 and n2.
func town(t *testing.T) (o Objects) {
	t.Helper()
	f, err := os.Open("testdata/town.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all struct {
		Services       []*corev1.Service
		Pods           []*corev1.Pod
		Nodes          []*corev1.Node
		Namespaces     []*corev1.Namespace
		EndpointSlices []*discoveryv1.EndpointSlice
		Policies       []*networkingv1.NetworkPolicy
	}
	if err := yaml.NewYAMLOrJSONDecoder(f, 4096).Decode(&all); err != nil {
		t.Fatal(err)
	}
	o.Services, o.Pods, o.Nodes, o.Namespaces = all.Services, all.Pods, all.Nodes, all.Namespaces
	o.Slices, o.Policies = all.EndpointSlices, all.Policies
	return o
}

func pod(name string) machine.TraceName {
	return machine.TraceName{Kind: machine.TracePod, Namespace: "shop", Name: name}
}

func toService(name, port string) machine.TraceName {
	return machine.TraceName{Kind: machine.TraceService, Namespace: "shop", Name: name, Port: port}
}

func toPod(name, port string) machine.TraceName {
	n := pod(name)
	n.Port = port
	return n
}

func TestQuestionsAreResolved(t *testing.T) {
	o := town(t)
	host, n2 := machine.TraceName{Kind: machine.TraceHost}, machine.TraceName{Kind: machine.TraceNode, Name: "n2"}
	for _, c := range []struct {
		name     string
		from, to machine.TraceName
		protocol string
		calls    string
		flows    string
	}{
		{"a Service's only port", pod("client"), toService("web", ""), "TCP", "10.244.1.5>10.96.0.7:80 fd00::5>[fd00:96::7]:80", "10.244.1.5@n1>10.244.2.7:8080@n2"},
		{"by name", pod("client"), toService("dns", "dns-tcp"), "TCP", "10.244.1.5>10.96.0.10:53", ""},
		{"of the other protocol", pod("client"), toService("dns", "53"), "UDP", "10.244.1.5>10.96.0.10:53", ""},
		{"a headless Service", pod("client"), toService("headless", "80"), "TCP", "10.244.1.5>10.244.2.7:8080", "10.244.1.5@n1>10.244.2.7:8080@n2"},
		{"a pod's named port", pod("client"), toPod("web-a", "http"), "TCP", "10.244.1.5>10.244.2.7:8080", "10.244.1.5@n1>10.244.2.7:8080@n2"},
		{"a pod's only port", pod("client"), toPod("web-a", ""), "TCP", "10.244.1.5>10.244.2.7:8080", "10.244.1.5@n1>10.244.2.7:8080@n2"},
		{"SCTP", pod("client"), toPod("web-a", "1"), "SCTP", "10.244.1.5>10.244.2.7:1", "10.244.1.5@n1>10.244.2.7:1@n2"},
		{"a node", n2, toPod("web-a", "1"), "TCP", "172.30.0.12>10.244.2.7:1", "172.30.0.12@>10.244.2.7:1@n2"},
		{"the host", host, toService("web", "80"), "TCP", "invalid IP>10.96.0.7:80 invalid IP>[fd00:96::7]:80", "invalid IP@>10.244.2.7:8080@n2"},
		{"a pod on the host's network", pod("agent"), toPod("web-a", "1"), "TCP", "172.30.0.12>10.244.2.7:1", "172.30.0.12@>10.244.2.7:1@n2"},
		{"an address", pod("client"), machine.TraceName{Kind: machine.TraceAddress, Address: netip.MustParseAddr("192.0.2.1"), Port: "443"}, "TCP", "10.244.1.5>192.0.2.1:443", "10.244.1.5@n1>192.0.2.1:443@"},
	} {
		r, err := o.Resolve(machine.TraceQuestion{Client: c.from, Destination: c.to, Protocol: c.protocol})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var calls, flows []string
		for _, x := range r.Calls {
			calls = append(calls, x.From.String()+">"+x.To.String())
		}
		for _, x := range r.Flows {
			flows = append(flows, x.From.String()+"@"+x.FromNode+">"+x.To.String()+"@"+x.ToNode)
		}
		if have := strings.Join(calls, " "); have != c.calls {
			t.Errorf("%s: calls %s, want %s", c.name, have, c.calls)
		}
		if have := strings.Join(flows, " "); have != c.flows {
			t.Errorf("%s: flows %s, want %s", c.name, have, c.flows)
		}
	}
	if r, err := o.Resolve(machine.TraceQuestion{Client: pod("client"), Destination: toService("alias", ""), Protocol: "TCP"}); err != nil || !strings.Contains(r.Note, "alias of example.org") || len(r.Calls) > 0 {
		t.Errorf("an ExternalName: %+v, %v", r, err)
	}
}

func TestQuestionsWithoutAnAnswerSayWhy(t *testing.T) {
	o := town(t)
	for _, c := range []struct {
		from, to machine.TraceName
		protocol string
		want     string
	}{
		{pod("absent"), toService("web", ""), "TCP", "pod shop/absent: not found"},
		{pod("pending"), toService("web", ""), "TCP", "pod shop/pending is not running: it is on no node yet"},
		{pod("starting"), toService("web", ""), "TCP", "pod shop/starting is not running: it has no address yet (Pending)"},
		{pod("done"), toService("web", ""), "TCP", "pod shop/done is not running: it has ended (Succeeded)"},
		{machine.TraceName{Kind: machine.TraceNode, Name: "n9"}, toService("web", ""), "TCP", `node "n9": not found`},
		{pod("client"), toService("absent", ""), "TCP", "service shop/absent: not found"},
		{pod("client"), toService("web", "81"), "TCP", "service shop/web has no TCP port 81: it has 80/TCP (http)"},
		{pod("client"), toService("web", ""), "UDP", "service shop/web has no UDP port: it has 80/TCP (http)"},
		{pod("client"), toService("dns", ""), "TCP", "service shop/dns has several TCP ports: 53/TCP (dns-tcp), 9153/TCP (metrics)"},
		{pod("client"), toPod("web-a", "sql"), "TCP", "pod shop/web-a: no TCP port sql: its containers name 8080 http"},
		{pod("client"), toPod("client", ""), "TCP", "pod shop/client: which port: its containers name none"},
		{pod("agent"), machine.TraceName{Kind: machine.TraceAddress, Address: netip.MustParseAddr("fd00::1"), Port: "1"}, "TCP", "pod shop/agent has no address of the family of [fd00::1]:1"},
	} {
		_, err := o.Resolve(machine.TraceQuestion{Client: c.from, Destination: c.to, Protocol: c.protocol})
		m, mends := err.(*mended)
		if err == nil || err.Error() != c.want || !mends || m.Mend() == "" {
			t.Errorf("have %v, want %s with a mend", err, c.want)
		}
	}
}

// holding is what a node's maps hold of a planned frontend, with these
// backends.
func holding(to ...string) func(table.Frontend) table.Snapshot {
	return func(f table.Frontend) table.Snapshot {
		f.Backends = nil
		for _, b := range to {
			f.Backends = append(f.Backends, netip.MustParseAddrPort(b))
		}
		return table.Snapshot{Frontends: []table.Frontend{f}}
	}
}

func nothing(table.Frontend) table.Snapshot { return table.Snapshot{} }

func TestServicesAreToldWithWhatIsOdd(t *testing.T) {
	o := town(t)
	for _, c := range []struct {
		name, service string
		maps          func(table.Frontend) table.Snapshot
		outcome       string
		endpoints     string
		remark        string
		difference    string
	}{
		{"ready and not", "web", holding("10.244.2.7:8080"), machine.TraceTranslated, "shop/web-b@n1 not-ready false; shop/web-a@n2 ready true", "", ""},
		{"not in the maps", "web", nothing, machine.TraceUntouched, "shop/web-b@n1 not-ready false; shop/web-a@n2 ready false", "", "lb_services lacks 10.96.0.7:80/TCP"},
		{"a backend that is in no slice", "web", holding("10.244.2.7:8080", "10.244.2.9:8080"), machine.TraceTranslated, "shop/web-b@n1 not-ready false; shop/web-a@n2 ready true; @ unknown true", "", "has the backend 10.244.2.9:8080, which is not planned"},
		{"a backend that is gone from the maps", "web", holding(), machine.TraceNoEndpoint, "shop/web-b@n1 not-ready false; shop/web-a@n2 ready false", "", "lacks the backend 10.244.2.7:8080"},
		{"nobody", "nobody", holding(), machine.TraceNoEndpoint, "", "matches its selector app=nobody", ""},
		{"the policy Local", "local", holding(), machine.TraceNoEndpoint, "shop/web-a@n2 ready false", "internalTrafficPolicy is Local, and node n1 has no endpoint", ""},
		{"another proxy's", "other", nothing, machine.TraceUntouched, "", `leaves it to "mesh"`, ""},
	} {
		r, err := o.Resolve(machine.TraceQuestion{Client: pod("client"), Destination: toService(c.service, "80"), Protocol: "TCP"})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		r.Calls = r.Calls[:1]
		var plan table.Frontend
		if p := lb.TraceCall(callOf(*r, r.Calls[0]), o.services(), table.Snapshot{}).Planned; p != nil {
			plan = *p
		}
		got := o.TraceServices(*r, c.maps(plan))[0]
		var endpoints []string
		for _, e := range got.Endpoints {
			used := " false"
			if e.Used {
				used = " true"
			}
			endpoints = append(endpoints, e.Pod+"@"+e.Node+" "+e.State+used)
		}
		remarks, differences := strings.Join(got.Remarks, "; "), strings.Join(got.Differences, "; ")
		if got.Outcome != c.outcome || strings.Join(endpoints, "; ") != c.endpoints {
			t.Errorf("%s: %s to %v; want %s to %s", c.name, got.Outcome, endpoints, c.outcome, c.endpoints)
		}
		if (c.remark == "") != (remarks == "") || !strings.Contains(remarks, c.remark) {
			t.Errorf("%s: remarks %q, want %q", c.name, remarks, c.remark)
		}
		if (c.difference == "") != (differences == "") || !strings.Contains(differences, c.difference) {
			t.Errorf("%s: differences %q, want %q", c.name, differences, c.difference)
		}
	}
}

func TestAddressesThatNoServiceServesAreTold(t *testing.T) {
	o := town(t)
	for address, want := range map[string]string{
		"10.96.0.7:81":       "Service shop/web has the address, with the ports 80/TCP (http) only",
		"10.96.0.11:80":      `leaves it to "mesh"`,
		"10.244.2.7:8080":    "it is the address of pod shop/web-a on node n2",
		"172.30.0.12:8088":   "it is the address of node n2, where host ports",
		"172.30.0.11:8088":   "it is this node's address",
		"192.0.2.1:80":       "",
		"[fd00:96::7]:65535": "Service shop/web has the address",
	} {
		to := netip.MustParseAddrPort(address)
		from := pod("client")
		r, err := o.Resolve(machine.TraceQuestion{Client: from, Destination: machine.TraceName{Kind: machine.TraceAddress, Address: to.Addr(), Port: strconv.Itoa(int(to.Port()))}, Protocol: "TCP"})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		got := o.TraceServices(*r, table.Snapshot{})[0]
		remarks := strings.Join(got.Remarks, "; ")
		if got.Outcome != machine.TraceUntouched || len(got.Differences) > 0 || (want == "") != (remarks == "") || !strings.Contains(remarks, want) {
			t.Errorf("%s: %s, %q, differences %v; want %q", address, got.Outcome, remarks, got.Differences, want)
		}
	}
}

func TestPoliciesAreToldByRuleAndNode(t *testing.T) {
	o := town(t)
	ask := func(from, port, node string) machine.PolicyTrace {
		t.Helper()
		r, err := o.Resolve(machine.TraceQuestion{Client: pod(from), Destination: toPod("web-a", port), Protocol: "TCP"})
		if err != nil {
			t.Fatal(err)
		}
		return o.TracePolicies(*r, node, &policy.Snapshot{})[0]
	}
	allowed := ask("client", "http", "n1")
	if !allowed.Allowed || allowed.Ingress == nil || !reflect.DeepEqual(allowed.Ingress.AllowedBy, []string{"shop/web spec.ingress[1]"}) {
		t.Errorf("a rule: %+v, ingress %+v", allowed, allowed.Ingress)
	}
	if allowed.Egress.MapsAllow == nil || allowed.Ingress.MapsAllow != nil {
		t.Errorf("n1 knows about egress only: %+v, %+v", allowed.Egress, allowed.Ingress)
	}
	denied := ask("client", "9", "n2")
	if denied.Allowed || denied.Ingress.Allowed || !reflect.DeepEqual(denied.Ingress.Policies, []string{"shop/web"}) || denied.Ingress.MapsAllow == nil || len(denied.Ingress.Differences) != 1 {
		t.Errorf("no rule, and n2 without programs: %+v, ingress %+v", denied, denied.Ingress)
	}
	if len(denied.Remarks) != 1 || !strings.HasPrefix(denied.Remarks[0], "NetworkPolicy shop/web: ") {
		t.Errorf("a block that is none: %v", denied.Remarks)
	}
	if own := ask("agent", "9", "n2"); !own.Allowed || own.Exempt == "" || own.Ingress != nil {
		t.Errorf("the pod's own node: %+v", own)
	}
}
