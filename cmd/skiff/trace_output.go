package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// serviceReport is what `trace service` says.
type serviceReport struct {
	machine.TraceRoute
	Answers []machine.ServiceTrace `json:"answers"`
}

// policyReport is what `trace policy` says.
type policyReport struct {
	machine.TraceRoute
	Answers []machine.PolicyTrace `json:"answers"`
}

type traceReport interface{ text(w io.Writer) }

func (a *app) printTrace(output string, r traceReport) error {
	if output == "json" {
		return a.printObject(output, r)
	}
	var b strings.Builder
	r.text(&b)
	_, err := io.WriteString(a.Out, b.String())
	return err
}

func (r serviceReport) text(w io.Writer) {
	if r.Note != "" {
		fmt.Fprintf(w, "%s: %s.\n", r.Destination, r.Note)
	}
	for _, c := range r.Answers {
		fmt.Fprintf(w, "%s/%s %s; %s.\n", c.To, r.Protocol, serviceVerdict(c), agreement(c.Differences))
		fmt.Fprintf(w, "  client: %s\n", clientOf(r.Client, c.From))
		table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		for _, e := range c.Endpoints {
			use := "-"
			if e.Used {
				use = "→"
			}
			fmt.Fprintf(table, "  %s %s\t%s\t%s\t%s\n", use, e.Address, podOr(e.Pod), onNode(e.Node), endpointState(e))
		}
		_ = table.Flush() // a strings.Builder takes all
		lines(w, "note", c.Remarks)
		lines(w, "differs", c.Differences)
	}
}

// serviceVerdict is the first thing that is to be known of a call.
func serviceVerdict(c machine.ServiceTrace) string {
	service := "a Service that is gone"
	if c.Service != "" {
		service = "Service " + c.Service
	}
	port := "a port of "
	if c.Port != "" {
		port = "port " + c.Port + " of "
	}
	ready, used := 0, 0
	for _, e := range c.Endpoints {
		if e.State == "ready" {
			ready++
		}
		if e.Used {
			used++
		}
	}
	endpoints := fmt.Sprintf("%s, %d ready, %d used", count(len(c.Endpoints), "endpoint"), ready, used)
	switch c.Outcome {
	case machine.TraceUntouched:
		if c.Service != "" {
			return "is " + port + service + ", and is NOT TRANSLATED: no map entry has it"
		}
		return "is no Service's: the connection goes on as it is"
	case machine.TraceNoEndpoint:
		return "is " + port + service + ": REFUSED, no endpoint for this client (" + endpoints + ")"
	case machine.TraceNotInRange:
		return "is " + port + service + ": REFUSED, the client is in none of loadBalancerSourceRanges"
	}
	if c.Service == "" && len(c.Differences) == 0 {
		return "is a host port: goes to " + c.Endpoints[0].Address.String()
	}
	return "is " + port + service + ": " + endpoints
}

func endpointState(e machine.TraceEndpoint) string {
	switch {
	case e.State == "unknown":
		return "in no EndpointSlice"
	case e.State == "ready" && !e.Used:
		return "ready, not used for this client"
	}
	return strings.ReplaceAll(e.State, "-", " ")
}

func (r policyReport) text(w io.Writer) {
	if r.Note != "" {
		fmt.Fprintf(w, "%s: %s.\n", r.Destination, r.Note)
	} else if len(r.Answers) == 0 {
		fmt.Fprintf(w, "%s: no endpoint for this client, so that no policy is asked; skiff trace service says why.\n", r.Destination)
	}
	if len(r.Answers) > 1 {
		allowed := 0
		for _, f := range r.Answers {
			if f.Allowed {
				allowed++
			}
		}
		fmt.Fprintf(w, "%s: %d of %d connections ALLOWED.\n", r.Destination, allowed, len(r.Answers))
	}
	for _, f := range r.Answers {
		var differences []string
		for _, d := range []*machine.PolicyDirection{f.Egress, f.Ingress} {
			if d != nil {
				for _, text := range d.Differences {
					differences = append(differences, d.Node+": "+text)
				}
			}
		}
		fmt.Fprintf(w, "%s: %s to %s: %s%s.\n", policyVerdict(f), clientOf(r.Client, f.From), target(f, r.Protocol), policyReason(f), mapsOf(f, differences))
		direction(w, "egress", f.Egress)
		direction(w, "ingress", f.Ingress)
		lines(w, "note", f.Remarks)
		lines(w, "differs", differences)
	}
}

func policyVerdict(f machine.PolicyTrace) string {
	if f.Allowed {
		return "ALLOWED"
	}
	var ways []string
	for _, d := range []struct {
		name string
		*machine.PolicyDirection
	}{{"egress", f.Egress}, {"ingress", f.Ingress}} {
		if d.PolicyDirection != nil && !d.Allowed {
			ways = append(ways, d.name)
		}
	}
	return "DENIED on " + strings.Join(ways, " and ")
}

// policyReason is why, in half a line.
func policyReason(f machine.PolicyTrace) string {
	if f.Exempt != "" {
		return f.Exempt
	}
	var allowed, denied []string
	for _, d := range []*machine.PolicyDirection{f.Egress, f.Ingress} {
		switch {
		case d == nil:
		case !d.Allowed:
			denied = append(denied, "no rule of NetworkPolicy "+strings.Join(d.Policies, ", ")+" allows it")
		case len(d.AllowedBy) > 0:
			allowed = append(allowed, "by "+strings.Join(d.AllowedBy, ", "))
		}
	}
	switch {
	case len(denied) > 0:
		return strings.Join(denied, "; ")
	case len(allowed) > 0:
		return strings.Join(allowed, " and ")
	case f.Egress == nil && f.Ingress == nil:
		return "neither end is a pod that policies judge"
	}
	if f.Egress != nil && f.Ingress != nil {
		return "no policy selects either pod"
	}
	return "no policy selects the pod"
}

func direction(w io.Writer, name string, d *machine.PolicyDirection) {
	if d == nil {
		return
	}
	verdict := "allowed, no policy selects the pod"
	switch {
	case !d.Allowed:
		verdict = "denied, selected by " + strings.Join(d.Policies, ", ")
	case len(d.AllowedBy) > 0:
		verdict = "allowed by " + strings.Join(d.AllowedBy, ", ")
	}
	maps := "not read"
	if d.MapsAllow != nil {
		maps = map[bool]string{true: "allow", false: "deny"}[*d.MapsAllow]
	}
	fmt.Fprintf(w, "  %s of %s on %s: %s; maps: %s\n", name, d.Pod, d.Node, verdict, maps)
}

// mapsOf is what the maps of both ends say together, if any was asked.
func mapsOf(f machine.PolicyTrace, differences []string) string {
	asked, allow := false, true
	for _, d := range []*machine.PolicyDirection{f.Egress, f.Ingress} {
		if d != nil && d.MapsAllow != nil {
			asked, allow = true, allow && *d.MapsAllow
		}
	}
	switch {
	case !asked:
		return ""
	case allow && !f.Allowed:
		return "; " + agreement(differences) + ", and ALLOW IT"
	case !allow && f.Allowed:
		return "; " + agreement(differences) + ", and DENY IT"
	}
	return "; " + agreement(differences)
}

func target(f machine.PolicyTrace, protocol string) string {
	to := fmt.Sprintf("%s/%s", f.To, protocol)
	if f.ToPod == "" {
		return to
	}
	return "pod " + f.ToPod + " (" + to + ")"
}

func clientOf(e machine.TraceEnd, from netip.Addr) string {
	who := e.Kind
	if e.Name != "" {
		who += " " + e.Name
	}
	var in []string
	if from.IsValid() {
		in = append(in, from.String())
	}
	if e.Kind == machine.TracePod {
		in = append(in, "on "+e.Node)
	}
	if e.HostNetwork && e.Kind == machine.TracePod {
		in = append(in, "host network")
	}
	if len(in) == 0 {
		return who
	}
	return who + " (" + strings.Join(in, ", ") + ")"
}

func podOr(pod string) string {
	if pod == "" {
		return "no pod"
	}
	return "pod " + pod
}

func onNode(node string) string {
	if node == "" {
		return "-"
	}
	return "on " + node
}

func agreement(differences []string) string {
	if len(differences) == 0 {
		return "maps agree with the plan"
	}
	return "MAPS DIFFER from the plan, in " + count(len(differences), "place")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func lines(w io.Writer, mark string, texts []string) {
	for _, t := range texts {
		fmt.Fprintf(w, "  %s: %s\n", mark, t)
	}
}
