package supervise

import (
	"fmt"
	"net/netip"
	"slices"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/lb/switchnat"
)

// rangeFields are the four kinds of ranges of a cluster, as text and as
// prefixes.
func rangeFields(n *cluster.Networking, r *fabric.Ranges) []struct {
	name     string
	text     *string
	prefixes *[]netip.Prefix
} {
	return []struct {
		name     string
		text     *string
		prefixes *[]netip.Prefix
	}{
		{"networking.nodeSubnet", &n.NodeSubnet, &r.NodeSubnets},
		{"networking.podSubnet", &n.PodSubnet, &r.PodSubnets},
		{"networking.serviceSubnet", &n.ServiceSubnet, &r.ServiceSubnets},
		{"networking.loadBalancerSubnet", &n.LoadBalancerSubnet, &r.LoadBalancerSubnets},
	}
}

// rangesOf parses what is given; what is left open stays empty.
func rangesOf(n cluster.Networking) (fabric.Ranges, error) {
	var r fabric.Ranges
	for _, f := range rangeFields(&n, &r) {
		prefixes, err := cluster.ParseSubnets(*f.text)
		if err != nil {
			return fabric.Ranges{}, &Refusal{Field: f.name, Err: err, Help: "a range in CIDR form, for example 10.244.0.0/16"}
		}
		for _, p := range prefixes {
			*f.prefixes = append(*f.prefixes, p.Masked())
		}
	}
	return r, nil
}

// familiesOf are the cluster's, the primary one first.
func familiesOf(n *cluster.Networking) []fabric.Family {
	var families []fabric.Family
	for _, f := range n.Families() {
		families = append(families, map[cluster.IPFamily]fabric.Family{cluster.IPv4: fabric.IPv4, cluster.IPv6: fabric.IPv6}[f])
	}
	return families
}

// chooseRanges fills in the ranges that c leaves open and refuses given ones
// that another cluster or a route of the host has.
func (p Paths) chooseRanges(c *cluster.Cluster) error {
	want, err := rangesOf(c.Networking)
	if err != nil {
		return err
	}
	taken, err := p.rangesInUse(c.Name)
	if err != nil {
		return err
	}
	if err := fabric.Conflicts(want, taken); err != nil {
		return err
	}
	ranges, err := fabric.FreeRanges(want, familiesOf(&c.Networking), taken)
	if err != nil {
		return err
	}
	for _, f := range rangeFields(&c.Networking, &ranges) {
		*f.text = machine.Join(*f.prefixes)
	}
	return nil
}

// rangesInUse are those of other clusters, running or not, and those that
// routes of the host lead to.
func (p Paths) rangesInUse(except string) ([]fabric.InUse, error) {
	others, err := p.published()
	if err != nil {
		return nil, err
	}
	half, err := p.announced()
	if err != nil {
		return nil, err
	}
	var taken []fabric.InUse
	for _, rec := range append(others, half...) {
		if rec.Cluster.Name == except {
			continue
		}
		ranges, err := rangesOf(rec.Cluster.Networking)
		if err != nil {
			return nil, fmt.Errorf("read ranges of cluster %q: %w", rec.Cluster.Name, err)
		}
		for _, prefix := range ranges.All() {
			taken = append(taken, fabric.InUse{Prefix: prefix, By: "cluster " + rec.Cluster.Name})
		}
	}
	clusters := len(taken)
	routes, err := fabric.HostInUse("")
	if err != nil {
		return nil, err
	}
	for _, route := range routes {
		// A cluster's own routes say less than its name.
		if !slices.ContainsFunc(taken[:clusters], func(t fabric.InUse) bool { return t.Prefix.Overlaps(route.Prefix) }) {
			taken = append(taken, route)
		}
	}
	return taken, nil
}

// newFabric is the cluster's network as the record has it.
func (p Paths) newFabric(rec *record) (*fabric.Fabric, error) {
	r, err := rangesOf(rec.Cluster.Networking)
	if err != nil {
		return nil, err
	}
	cfg := fabric.Config{Cluster: rec.Cluster.Name, NetnsDir: p.netns(rec.Cluster.Name), MTU: rec.MTU, Ranges: r,
		ForeignPods: rec.Cluster.Networking.DisableDefaultCNI}
	for _, m := range rec.Machines {
		cfg.Nodes = append(cfg.Nodes, fabric.Node{Name: m.Name, IPs: m.IPs, PodCIDRs: m.PodCIDRs})
	}
	return fabric.New(cfg), nil
}

// switchConfig says where the programs of the cluster's switch are.
func (p Paths) switchConfig(name string, f *fabric.Fabric) switchnat.Config {
	return switchnat.Config{Netns: f.SwitchNetns(), Device: fabric.SwitchUplink, PinDir: p.switchBPF(name)}
}
