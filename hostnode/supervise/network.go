package supervise

import (
	"fmt"
	"net/netip"
	"slices"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/lb/switchnat"
)

// rangeFields are the four ranges of a cluster, as text and as prefixes.
func rangeFields(n *cluster.Networking, r *fabric.Ranges) []struct {
	name   string
	text   *string
	prefix *netip.Prefix
} {
	return []struct {
		name   string
		text   *string
		prefix *netip.Prefix
	}{
		{"networking.nodeSubnet", &n.NodeSubnet, &r.NodeSubnet},
		{"networking.podSubnet", &n.PodSubnet, &r.PodSubnet},
		{"networking.serviceSubnet", &n.ServiceSubnet, &r.ServiceSubnet},
		{"networking.loadBalancerSubnet", &n.LoadBalancerSubnet, &r.LoadBalancerSubnet},
	}
}

// rangesOf parses what is given; what is left open stays the zero value.
func rangesOf(n cluster.Networking) (fabric.Ranges, error) {
	var r fabric.Ranges
	for _, f := range rangeFields(&n, &r) {
		if *f.text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(*f.text)
		if err != nil {
			return fabric.Ranges{}, &Refusal{Field: f.name, Err: err, Help: "a range in CIDR form, for example 10.244.0.0/16"}
		}
		*f.prefix = prefix.Masked()
	}
	return r, nil
}

// chooseRanges fills in the ranges that c leaves open and refuses given ones
// that another cluster or a route of the host has.
func (p Paths) chooseRanges(c *cluster.Cluster) error {
	want, err := rangesOf(c.Networking)
	if err != nil {
		return err
	}
	others, err := p.published()
	if err != nil {
		return err
	}
	half, err := p.announced()
	if err != nil {
		return err
	}
	var taken []fabric.InUse
	for _, rec := range append(others, half...) {
		ranges, err := rangesOf(rec.Cluster.Networking)
		if err != nil {
			return fmt.Errorf("read ranges of cluster %q: %w", rec.Cluster.Name, err)
		}
		for _, f := range rangeFields(&rec.Cluster.Networking, &ranges) {
			taken = append(taken, fabric.InUse{Prefix: *f.prefix, By: "cluster " + rec.Cluster.Name})
		}
	}
	clusters := len(taken)
	routes, err := fabric.HostInUse("")
	if err != nil {
		return err
	}
	for _, route := range routes {
		// A cluster's own routes say less than its name.
		if !slices.ContainsFunc(taken[:clusters], func(t fabric.InUse) bool { return t.Prefix.Overlaps(route.Prefix) }) {
			taken = append(taken, route)
		}
	}
	if err := fabric.Conflicts(want, taken); err != nil {
		return err
	}
	ranges, err := fabric.FreeRanges(want, taken)
	if err != nil {
		return err
	}
	for _, f := range rangeFields(&c.Networking, &ranges) {
		*f.text = f.prefix.String()
	}
	return nil
}

// newFabric is the cluster's network as the record has it.
func (p Paths) newFabric(rec *record) (*fabric.Fabric, error) {
	r, err := rangesOf(rec.Cluster.Networking)
	if err != nil {
		return nil, err
	}
	cfg := fabric.Config{
		Cluster: rec.Cluster.Name, NetnsDir: p.netns(rec.Cluster.Name), MTU: mtu,
		NodeSubnet: r.NodeSubnet, PodSubnet: r.PodSubnet, ServiceSubnet: r.ServiceSubnet, LoadBalancerSubnet: r.LoadBalancerSubnet,
	}
	for _, m := range rec.Machines {
		cfg.Nodes = append(cfg.Nodes, fabric.Node{Name: m.Name, IP: m.IP, PodCIDR: m.PodCIDR})
	}
	return fabric.New(cfg), nil
}

// switchConfig says where the programs of the cluster's switch are.
func (p Paths) switchConfig(name string, f *fabric.Fabric) switchnat.Config {
	return switchnat.Config{Netns: f.SwitchNetns(), Device: fabric.SwitchUplink, PinDir: p.switchBPF(name)}
}
