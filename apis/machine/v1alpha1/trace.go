package v1alpha1

import "net/netip"

// What `skiff trace` and `skiff-machine trace` tell each other, as JSON.

// Kinds of ends of a traced connection.
const (
	TracePod = "pod"
	// TraceNode is a process in a node's own network namespace.
	TraceNode = "node"
	// TraceHost is the host, or whoever else is outside the cluster.
	TraceHost    = "host"
	TraceService = "service"
	TraceAddress = "address"
)

// TraceQuestion is who calls what.
type TraceQuestion struct {
	Client      TraceName `json:"client"`
	Destination TraceName `json:"destination"`
	// Protocol is TCP, UDP or SCTP.
	Protocol string `json:"protocol"`
}

// TraceName names an end as its user does.
type TraceName struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Address is of TraceAddress.
	Address netip.Addr `json:"address,omitzero"`
	// Port is a destination's, a number or a name.
	Port string `json:"port,omitempty"`
}

// TraceRoute is a question with names resolved.
type TraceRoute struct {
	Client TraceEnd `json:"client"`
	// Destination is "Service default/web", "Pod default/db" or an address.
	Destination string `json:"destination"`
	Protocol    string `json:"protocol"`
	// Note says why there is nothing to call by address, if so.
	Note string `json:"note,omitempty"`
	// Calls are what the client calls, one for each family that both have.
	Calls []TraceCall `json:"calls,omitempty"`
	// Flows are what becomes of the calls by the API's objects: packets from
	// pod to pod.
	Flows []TraceFlow `json:"flows,omitempty"`
}

// TraceEnd is who calls.
type TraceEnd struct {
	Kind string `json:"kind"`
	// Name is a pod's with its namespace, or a node's.
	Name string `json:"name,omitempty"`
	// Node that it is on; empty: outside.
	Node string `json:"node,omitempty"`
	// HostNetwork: it is in the node's own network namespace.
	HostNetwork bool `json:"hostNetwork,omitempty"`
}

// TraceCall is a connection from an address; the host's is not known to the
// cluster.
type TraceCall struct {
	From netip.Addr     `json:"from,omitzero"`
	To   netip.AddrPort `json:"to"`
}

// TraceFlow is a call after Services are translated.
type TraceFlow struct {
	TraceCall
	// FromNode and ToNode are nodes whose policies see it; empty: no pod is at
	// that end.
	FromNode string `json:"fromNode,omitempty"`
	ToNode   string `json:"toNode,omitempty"`
	// ToPod is the pod that is called, if it is one.
	ToPod string `json:"toPod,omitempty"`
}

// ServiceTrace is what the programs do with a call.
type ServiceTrace struct {
	TraceCall
	// Service and Port are the one called; empty: no Service has the address.
	Service string `json:"service,omitempty"`
	Port    string `json:"port,omitempty"`
	// Outcome is one of the constants below, by what is in the maps.
	Outcome   string          `json:"outcome"`
	Endpoints []TraceEndpoint `json:"endpoints,omitempty"`
	// Remarks are what is odd, or limits who is served.
	Remarks []string `json:"remarks,omitempty"`
	// Differences are entries of the maps that are not as planned.
	Differences []string `json:"differences,omitempty"`
}

// Outcomes of a ServiceTrace.
const (
	TraceTranslated = "translated"
	TraceUntouched  = "untouched"
	TraceNoEndpoint = "refused-no-endpoint"
	TraceNotInRange = "refused-source-range"
)

// TraceEndpoint is an endpoint of a Service, or an address that the maps hold
// as one.
type TraceEndpoint struct {
	Address netip.AddrPort `json:"address"`
	Pod     string         `json:"pod,omitempty"`
	Node    string         `json:"node,omitempty"`
	// State is ready, not-ready, terminating, or unknown: it is in no
	// EndpointSlice.
	State string `json:"state"`
	// Used: the maps send new connections of this client there.
	Used bool `json:"used"`
}

// PolicyTrace is what NetworkPolicies say about a flow.
type PolicyTrace struct {
	TraceFlow
	Allowed bool `json:"allowed"`
	// Exempt says why no policy is asked.
	Exempt  string           `json:"exempt,omitempty"`
	Egress  *PolicyDirection `json:"egress,omitempty"`
	Ingress *PolicyDirection `json:"ingress,omitempty"`
	// Remarks are fields of policies that match nothing.
	Remarks []string `json:"remarks,omitempty"`
}

// PolicyDirection is one end's part: a pod's policies in one direction.
type PolicyDirection struct {
	Pod     string `json:"pod"`
	Node    string `json:"node,omitempty"`
	Allowed bool   `json:"allowed"`
	// Policies isolate the pod; without one all is allowed.
	Policies []string `json:"policies,omitempty"`
	// AllowedBy are rules: "default/web spec.ingress[0]".
	AllowedBy []string `json:"allowedBy,omitempty"`
	// MapsAllow is what the node's maps say; nil: they were not read.
	MapsAllow *bool `json:"mapsAllow,omitempty"`
	// Differences are entries of the maps that are not as planned.
	Differences []string `json:"differences,omitempty"`
}
