package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func TestTraceArgumentsAreRead(t *testing.T) {
	service := func(namespace, name, port string) machine.TraceName {
		return machine.TraceName{Kind: machine.TraceService, Namespace: namespace, Name: name, Port: port}
	}
	pod := func(namespace, name, port string) machine.TraceName {
		return machine.TraceName{Kind: machine.TracePod, Namespace: namespace, Name: name, Port: port}
	}
	address := func(addr, port string) machine.TraceName {
		return machine.TraceName{Kind: machine.TraceAddress, Address: netip.MustParseAddr(addr), Port: port}
	}
	for text, want := range map[string]machine.TraceName{
		"web":                          service("here", "web", ""),
		"web:80":                       service("here", "web", "80"),
		"web:0080":                     service("here", "web", "80"),
		"web:http":                     service("here", "web", "http"),
		"web.shop":                     service("shop", "web", ""),
		"web.shop:http":                service("shop", "web", "http"),
		"web.shop.svc":                 service("shop", "web", ""),
		"web.shop.svc.cluster.local:1": service("shop", "web", "1"),
		"service/web":                  service("here", "web", ""),
		"10.96.0.1:443":                address("10.96.0.1", "443"),
		"[fd00::1]:53":                 address("fd00::1", "53"),
		"[::ffff:10.96.0.1]:443":       address("10.96.0.1", "443"),
		"pod/db-0":                     pod("here", "db-0", ""),
		"pod/shop/db-0:5432":           pod("shop", "db-0", "5432"),
		"pod/a.b:sql":                  pod("here", "a.b", "sql"),
	} {
		if have, err := parseDestination(text, "here"); err != nil || have != want {
			t.Errorf("DEST %s: have %+v, %v; want %+v", text, have, err, want)
		}
	}
	for text, want := range map[string]machine.TraceName{
		"web-0":        pod("here", "web-0", ""),
		"shop/web-0":   pod("shop", "web-0", ""),
		"pod/web-0":    pod("here", "web-0", ""),
		"pod/s/web-0":  pod("s", "web-0", ""),
		"pod/host":     pod("here", "host", ""),
		"host":         {Kind: machine.TraceHost},
		"node/dev-cp1": {Kind: machine.TraceNode, Name: "dev-cp1"},
	} {
		if have, err := parseClient(text, "here"); err != nil || have != want {
			t.Errorf("POD %s: have %+v, %v; want %+v", text, have, err, want)
		}
	}
}

func FuzzTraceDestination(f *testing.F) {
	for _, text := range []string{"web", "web.shop:80", "[fd00::1]:53", "pod/ns/name:port", "10.96.0.1:80", "[fe80::1%eth0]:1", ":", "pod//", "a.b.c.d:1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDestination(text, "here")
		if err != nil {
			return
		}
		// What was understood, written in full, is understood as the same.
		var full string
		switch d.Kind {
		case machine.TraceAddress:
			full = netip.MustParseAddrPort("[::1]:" + d.Port).String()
			full = strings.Replace(full, "[::1]", "["+d.Address.String()+"]", 1)
			if d.Address.Is4() {
				full = d.Address.String() + ":" + d.Port
			}
		case machine.TracePod:
			full = "pod/" + d.Namespace + "/" + d.Name + ":" + d.Port
		default:
			full = d.Name + "." + d.Namespace + ":" + d.Port
		}
		again, err := parseDestination(strings.TrimSuffix(full, ":"), "elsewhere")
		if err != nil || again != d {
			t.Errorf("%q is %+v; %q is %+v, %v", text, d, full, again, err)
		}
	})
}

func TestTraceReportsReadAsBefore(t *testing.T) {
	yes, no := true, false
	addr, at := netip.MustParseAddr, netip.MustParseAddrPort
	pod := machine.TraceEnd{Kind: machine.TracePod, Name: "default/client", Node: "dev-worker"}
	call := machine.TraceCall{From: addr("10.244.1.5"), To: at("10.96.12.3:80")}
	route := machine.TraceRoute{Client: pod, Destination: "Service default/web", Protocol: "TCP", Calls: []machine.TraceCall{call}}
	endpoints := []machine.TraceEndpoint{
		{Address: at("10.244.1.7:8080"), Pod: "default/web-a", Node: "dev-worker", State: "ready", Used: true},
		{Address: at("10.244.2.7:8080"), Pod: "default/web-b", Node: "dev-worker2", State: "ready", Used: true},
		{Address: at("10.244.2.8:8080"), Pod: "default/web-c", Node: "dev-worker2", State: "not-ready"},
	}
	flow := machine.TraceFlow{TraceCall: machine.TraceCall{From: call.From, To: at("10.244.2.7:8080")}, FromNode: "dev-worker", ToNode: "dev-worker2", ToPod: "default/web-b"}
	open := &machine.PolicyDirection{Pod: "default/client", Node: "dev-worker", Allowed: true, MapsAllow: &yes}
	let := &machine.PolicyDirection{Pod: "default/web-b", Node: "dev-worker2", Allowed: true, Policies: []string{"default/deny", "default/web"}, AllowedBy: []string{"default/web spec.ingress[1]"}, MapsAllow: &yes}
	refused := &machine.PolicyDirection{Pod: "default/web-b", Node: "dev-worker2", Policies: []string{"default/deny"}, MapsAllow: &no}
	late := *refused
	late.MapsAllow, late.Differences = &yes, []string{"policy_pods lacks 10.244.2.7 (ingress): policies select the pod, and its packets are not judged"}
	withService := func(change func(*machine.ServiceTrace)) serviceReport {
		c := machine.ServiceTrace{TraceCall: call, Service: "default/web", Port: "http", Outcome: machine.TraceTranslated, Endpoints: endpoints}
		change(&c)
		return serviceReport{route, []machine.ServiceTrace{c}}
	}
	policies := func(flows ...machine.PolicyTrace) policyReport { return policyReport{route, flows} }
	alias := route
	alias.Note, alias.Calls = "it is an alias of example.org that DNS answers with: no connection is translated", nil
	host := route
	host.Client = machine.TraceEnd{Kind: machine.TraceHost}

	var all strings.Builder
	a := &app{IOStreams: IOStreams{Out: &all}}
	for _, c := range []struct {
		name   string
		report traceReport
	}{
		{"a Service", withService(func(*machine.ServiceTrace) {})},
		{"from the host, without a port's name", serviceReport{host, []machine.ServiceTrace{{TraceCall: machine.TraceCall{From: addr("172.30.0.2"), To: call.To}, Service: "default/web", Outcome: machine.TraceTranslated, Endpoints: endpoints[:1]}}}},
		{"no endpoints", withService(func(c *machine.ServiceTrace) {
			c.Outcome, c.Endpoints, c.Remarks = machine.TraceNoEndpoint, nil, []string{"no Pod that has an address matches its selector app=web and has the port"}
		})},
		{"no source range", withService(func(c *machine.ServiceTrace) {
			c.Outcome, c.Remarks = machine.TraceNotInRange, []string{"loadBalancerSourceRanges lets in 192.0.2.0/24 only, and the client is 10.244.1.5"}
		})},
		{"no Service", serviceReport{route, []machine.ServiceTrace{{TraceCall: call, Outcome: machine.TraceUntouched}}}},
		{"a host port", serviceReport{route, []machine.ServiceTrace{{TraceCall: call, Outcome: machine.TraceTranslated, Endpoints: []machine.TraceEndpoint{{Address: at("10.244.1.7:8080"), State: "unknown", Used: true}}, Remarks: []string{"it is a host port of a pod on the node"}}}}},
		{"an entry is gone", withService(func(c *machine.ServiceTrace) {
			c.Outcome, c.Differences = machine.TraceUntouched, []string{"lb_services lacks 10.96.12.3:80/TCP: the Service is not translated"}
			c.Endpoints = []machine.TraceEndpoint{{Address: at("10.244.1.7:8080"), Pod: "default/web-a", Node: "dev-worker", State: "ready"}}
		})},
		{"a backend that left", withService(func(c *machine.ServiceTrace) {
			c.Endpoints = append(c.Endpoints[:1:1], machine.TraceEndpoint{Address: at("10.244.2.9:8080"), State: "unknown", Used: true})
			c.Differences = []string{"10.96.12.3:80/TCP in lb_services has the backend 10.244.2.9:8080, which is not planned (any more)"}
		})},
		{"a name only", serviceReport{alias, nil}},
		{"no policy", policies(machine.PolicyTrace{TraceFlow: flow, Allowed: true, Egress: open})},
		{"no policy at either end", policies(machine.PolicyTrace{TraceFlow: flow, Allowed: true, Egress: open, Ingress: &machine.PolicyDirection{Pod: "default/web-b", Node: "dev-worker2", Allowed: true, MapsAllow: &yes}})},
		{"a rule", policies(machine.PolicyTrace{TraceFlow: flow, Allowed: true, Egress: open, Ingress: let})},
		{"no rule", policies(machine.PolicyTrace{TraceFlow: flow, Egress: open, Ingress: refused})},
		{"several endpoints, and maps that are late", policies(machine.PolicyTrace{TraceFlow: flow, Egress: open, Ingress: &late}, machine.PolicyTrace{TraceFlow: flow, Allowed: true, Egress: open, Ingress: let})},
		{"a pod's own node", policies(machine.PolicyTrace{TraceFlow: flow, Allowed: true, Exempt: "a pod's own node always reaches it"})},
		{"nobody to judge", policies()},
	} {
		fmt.Fprintf(&all, "# %s\n", c.name)
		if err := a.printTrace("text", c.report); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&all)
	}
	for _, r := range []traceReport{withService(func(*machine.ServiceTrace) {}), policies(machine.PolicyTrace{TraceFlow: flow, Egress: open, Ingress: refused})} {
		if err := a.printTrace("json", r); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "trace.txt", []byte(all.String()))
}

func TestAnswersOfBothNodesAreOne(t *testing.T) {
	yes, no := true, false
	side := func(maps *bool) *machine.PolicyDirection {
		return &machine.PolicyDirection{Pod: "x/a", MapsAllow: maps}
	}
	client := []machine.PolicyTrace{{Egress: side(&yes), Ingress: side(nil)}}
	server := []machine.PolicyTrace{{Egress: side(nil), Ingress: side(&no)}}
	got := mergePolicies(mergePolicies(nil, client), server)
	if len(got) != 1 || got[0].Egress.MapsAllow != &yes || got[0].Ingress.MapsAllow != &no {
		t.Errorf("%+v", got)
	}
	r := machine.TraceRoute{Flows: []machine.TraceFlow{{FromNode: "a", ToNode: "b"}, {FromNode: "a", ToNode: "a"}}}
	if nodes := nodesOf(r); len(nodes) != 2 || nodes[0] != "a" || nodes[1] != "b" {
		t.Errorf("%v", nodes)
	}
	if nodes := nodesOf(machine.TraceRoute{}); len(nodes) != 1 || nodes[0] != "" {
		t.Errorf("%v", nodes)
	}
}

func TestTheTracersLastWordIsTheError(t *testing.T) {
	err := traceFailure("I1126 chatter\nError: skiff-machine trace: pod x/y: not found\n  Mend: look\n", 1)
	if m, ok := err.(mender); !ok || err.Error() != "pod x/y: not found" || m.Mend() != "look" {
		t.Errorf("%v", err)
	}
	if err := traceFailure("skiff-machine is started by skiff, not by hand.\n", 2); !strings.Contains(err.Error(), "exit code 2: skiff-machine is started") {
		t.Errorf("%v", err)
	}
}

func TestTraceCompletesNamesOfClusters(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	env, dir := emptyHost(t)
	out, _, code := run(t, env, dir, "", "__complete", "trace", "service", "--name", "")
	if code != 0 || !strings.HasPrefix(out, ":4") {
		t.Errorf("exit code %d, %q: want no cluster, and no file", code, out)
	}
	if entries, _ := filepath.Glob(filepath.Join(dir, "state", "*")); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}
