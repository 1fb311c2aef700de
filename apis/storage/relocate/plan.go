package relocate

import (
	"net/netip"
	"slices"
	"strings"
)

// Plan says what is called how in the new cluster.
type Plan struct {
	Nodes []Node `json:"nodes"`
	// Ranges that differ. An address of none of them stays as it is.
	Ranges []Range `json:"ranges,omitempty"`
	// ServiceCIDRs are the ranges of Services, one a family.
	ServiceCIDRs []string `json:"serviceCIDRs"`
}

// Node is a node with what its object may never change.
type Node struct {
	From       string   `json:"from"`
	To         string   `json:"to"`
	ProviderID string   `json:"providerID"`
	PodCIDRs   []string `json:"podCIDRs"`
}

// Range is one whose addresses keep their places.
type Range struct {
	From netip.Prefix `json:"from"`
	To   netip.Prefix `json:"to"`
}

// node is nil for a node that nobody has.
func (p *Plan) node(name string) *Node {
	for i := range p.Nodes {
		if p.Nodes[i].From == name {
			return &p.Nodes[i]
		}
	}
	return nil
}

func (p *Plan) nodeName(name string) string {
	if n := p.node(name); n != nil {
		return n.To
	}
	return name
}

// address is where an address of the old cluster is in the new one. What is
// no address stays as it is.
func (p *Plan) address(text string) string {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return text
	}
	for _, r := range p.Ranges {
		if r.From.Contains(a) {
			return translate(a, r).String()
		}
	}
	return text
}

// translate gives a, of r.From, the same place in r.To, which is no smaller.
func translate(a netip.Addr, r Range) netip.Addr {
	from, to := a.AsSlice(), r.To.Masked().Addr().AsSlice()
	for i := range from {
		// The bits of the byte that are the host's, by the old range's length.
		host := min(max(8*(i+1)-r.From.Bits(), 0), 8)
		mask := byte(1<<host - 1)
		to[i] |= from[i] & mask
	}
	out, _ := netip.AddrFromSlice(to)
	return out
}

func (p *Plan) addresses(list []string) []string {
	out := slices.Clone(list)
	for i := range out {
		out[i] = p.address(out[i])
	}
	return out
}

// addressList is a comma-separated one.
func (p *Plan) addressList(text string) string {
	parts := strings.Split(text, ",")
	for i, part := range parts {
		trimmed := strings.TrimSpace(part)
		parts[i] = strings.Replace(part, trimmed, p.address(trimmed), 1)
	}
	return strings.Join(parts, ",")
}
