package v1alpha1

import (
	"path/filepath"
	"strconv"
)

// DefaultName is the name of a cluster that was given none.
const DefaultName = "skiff"

// DefaultPods is the most Pods on a node that does not say.
const DefaultPods = 110

// Default ranges. They are not written into a Cluster by SetDefaults: an empty
// subnet means "this one, or the next that is free on this host", a written
// one must be free.
const (
	DefaultPodSubnet          = "10.244.0.0/16"
	DefaultServiceSubnet      = "10.96.0.0/16"
	DefaultNodeSubnet         = "172.30.0.0/24"
	DefaultLoadBalancerSubnet = "172.31.0.0/24"

	DefaultPodSubnetIPv6          = "fd00:10:244::/56"
	DefaultServiceSubnetIPv6      = "fd00:10:96::/112"
	DefaultNodeSubnetIPv6         = "fd00:172:30::/64"
	DefaultLoadBalancerSubnetIPv6 = "fd00:172:31::/112"
)

// SetDefaults fills in what c leaves open. A second call changes nothing, so
// that a resolved cluster can be read back.
func SetDefaults(c *Cluster) {
	c.Kind, c.APIVersion = Kind, APIVersion
	setDefault(&c.Name, DefaultName)
	setDefault(&c.Restart, RestartNever)
	if c.Restart == RestartAlways {
		// A cluster that is meant to live.
		setDefault(&c.Durability, Durable)
	}
	setDefault(&c.Durability, Ephemeral)
	SetCloudDefaults(&c.Cloud)
	setDefault(&c.RemovedVolumes, FailRemovedVolumes)
	setDefault(&c.Networking.IPFamily, IPv4)
	loopback := "127.0.0.1"
	if c.Networking.IPFamily == IPv6 {
		loopback = "::1"
	}
	setDefault(&c.Networking.APIServerAddress, loopback)
	if len(c.Nodes) == 0 {
		c.Nodes = []Node{{}}
	}
	count := map[Role]int{}
	for i := range c.Nodes {
		n := &c.Nodes[i]
		setDefault(&n.Role, ControlPlaneRole)
		count[n.Role]++
		n.Name = nodeName(c.Name, n.Role, count[n.Role])
		if n.Resources.Pods == 0 {
			n.Resources.Pods = DefaultPods
		}
		for j := range n.ExtraMounts {
			setDefault(&n.ExtraMounts[j].Propagation, "None")
		}
		for j := range n.ExtraPortMappings {
			setDefault(&n.ExtraPortMappings[j].ListenAddress, loopback)
			setDefault(&n.ExtraPortMappings[j].Protocol, "TCP")
		}
	}
}

// ResolvePaths makes the host paths of c absolute: relative ones count from
// dir.
func (c *Cluster) ResolvePaths(dir string) {
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	abs(&c.AuditPolicy)
	if t := c.EtcdTLS; t != nil {
		abs(&t.CAFile)
		abs(&t.CertFile)
		abs(&t.KeyFile)
	}
	for i := range c.RuntimeHandlers {
		abs(&c.RuntimeHandlers[i].Path)
	}
	for i := range c.Nodes {
		for j := range c.Nodes[i].ExtraMounts {
			abs(&c.Nodes[i].ExtraMounts[j].HostPath)
		}
	}
}

// nodeName numbers nodes of one role as kind does: the first has no number.
func nodeName(cluster string, role Role, nth int) string {
	name := cluster + "-" + string(role)
	if nth > 1 {
		name += strconv.Itoa(nth)
	}
	return name
}

func setDefault[T ~string](v *T, def T) {
	if *v == "" {
		*v = def
	}
}
