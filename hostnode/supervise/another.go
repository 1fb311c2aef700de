package supervise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/hostnode/snapshot"
)

// restoreAnother makes a cluster of a snapshot that is not there: a create
// with certificates' authorities and objects of its own.
func (p Paths) restoreAnother(ctx context.Context, from *origin, opts RestoreOptions) (*Info, error) {
	c, err := clone(&from.rec.Cluster)
	if err != nil {
		return nil, err
	}
	c.Name = opts.Cluster
	cluster.SetDefaults(c) // the names of its nodes
	if c.AuditPolicy != "" {
		c.AuditPolicy = filepath.Join(from.dir, snapshot.EtcDir, filepath.Base(auditPolicyFile))
	}
	if p.oneHostDNS(c) != nil {
		c.Networking.HostDNS = false
	}
	unlock, err := p.lockCluster(ctx, c.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	info, err := p.create(ctx, c, from, CreateOptions{Verbosity: from.rec.Verbosity, Retain: opts.Retain, Progress: opts.Progress})
	return info, roomy(err, p.clusters())
}

// leaveTaken leaves open what the cluster of a snapshot had and somebody else
// has now: ranges. The host has its lock.
func (p Paths) leaveTaken(c *cluster.Cluster, from *origin) error {
	if from == nil {
		return nil
	}
	want, err := rangesOf(c.Networking)
	if err != nil {
		return err
	}
	taken, err := p.rangesInUse(c.Name)
	if err != nil {
		return err
	}
	for _, f := range rangeFields(&c.Networking, &want) {
		*f.prefixes = slices.DeleteFunc(*f.prefixes, func(r netip.Prefix) bool {
			return slices.ContainsFunc(taken, func(t fabric.InUse) bool { return t.Prefix.Overlaps(r) })
		})
		*f.text = machine.Join(*f.prefixes)
	}
	return nil
}

// roomFor refuses ranges that are smaller than those of the snapshot: not
// every address would have its place.
func (o *origin) roomFor(c *cluster.Cluster) error {
	if o == nil {
		return nil
	}
	for _, r := range movedRanges(&o.rec.Cluster, c) {
		if r.To.Bits() > r.From.Bits() {
			return &Refusal{Err: fmt.Errorf("the snapshot's range %s is taken, and the next free one, %s, is smaller", r.From, r.To),
				Help: "free it: `skiff get clusters -o wide` and `ip route` show who has it"}
		}
	}
	return nil
}

// relocation is what skiff-machine reads as relocate.Plan.
type relocation struct {
	Nodes        []relocatedNode  `json:"nodes"`
	Ranges       []relocatedRange `json:"ranges"`
	ServiceCIDRs []netip.Prefix   `json:"serviceCIDRs"`
}

type relocatedNode struct {
	From       string         `json:"from"`
	To         string         `json:"to"`
	ProviderID string         `json:"providerID"`
	PodCIDRs   []netip.Prefix `json:"podCIDRs"`
}

type relocatedRange struct {
	From netip.Prefix `json:"from"`
	To   netip.Prefix `json:"to"`
}

// relocate says how the machines and the ranges of one record are called in
// another. Machines of the same index are the same.
func (o *origin) relocate(rec *record) (*relocation, error) {
	services, err := rangesOf(rec.Cluster.Networking)
	if err != nil {
		return nil, err
	}
	r := &relocation{Ranges: movedRanges(&o.rec.Cluster, &rec.Cluster), ServiceCIDRs: services.ServiceSubnets}
	for i, m := range o.rec.Machines {
		to := rec.Machines[i]
		r.Nodes = append(r.Nodes, relocatedNode{From: m.Name, To: to.Name, ProviderID: providerID(rec.Cluster.Name, to.Name), PodCIDRs: to.PodCIDRs})
	}
	return r, nil
}

// movedRanges are those that differ.
func movedRanges(from, to *cluster.Cluster) (moved []relocatedRange) {
	old, oldErr := rangesOf(from.Networking)
	next, nextErr := rangesOf(to.Networking)
	if oldErr != nil || nextErr != nil {
		return nil // both have been parsed before
	}
	a, b := old.All(), next.All()
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			moved = append(moved, relocatedRange{a[i], b[i]})
		}
	}
	return moved
}

// changes are what the user should know about a cluster that is not quite the
// snapshot's.
func (o *origin) changes(rec *record) (notes []string) {
	if o == nil {
		return nil
	}
	for _, r := range movedRanges(&o.rec.Cluster, &rec.Cluster) {
		notes = append(notes, fmt.Sprintf("range %s is taken: this cluster has %s", r.From, r.To))
	}
	for i := range rec.Machines {
		was, is := planSockets(o.rec, i), planSockets(rec, i)
		for _, name := range keys(is) {
			if name != machine.SocketAPIServer && was[name].address != is[name].address {
				notes = append(notes, fmt.Sprintf("%s: %s is taken: this cluster has %s", is[name].portField, was[name].address, is[name].address))
			}
		}
	}
	if o.rec.Cluster.Networking.HostDNS && !rec.Cluster.Networking.HostDNS {
		notes = append(notes, "another cluster has its names on this host: this one has none there")
	}
	return notes
}

// fillFrom gives a new cluster's directory what the snapshot has: authorities
// and keys, from which its certificates are made, objects, and empty volumes.
func (p Paths) fillFrom(ctx context.Context, dir string, rec *record, from *origin) error {
	if err := copyPlain(filepath.Join(from.dir, snapshot.PKIDir), filepath.Join(dir, "pki")); err != nil {
		return err
	}
	relocation, err := from.relocate(rec)
	if err != nil {
		return err
	}
	plan := filepath.Join(dir, "relocate.json")
	if err := writeJSON(plan, relocation); err != nil {
		return err
	}
	var dirs []string
	for _, m := range rec.controlPlanes() {
		dirs = append(dirs, etcdDir(dir, m.Name))
	}
	volumes, err := p.restoreEtcd(ctx, rec, from, dirs, plan)
	if err != nil {
		return err
	}
	if _, err := makeVolumes(dir, volumes); err != nil {
		return err
	}
	return os.Remove(plan)
}

// openKeptOrFree opens sockets of a cluster that is made of a snapshot: those
// that it had, or free ones where somebody has them.
func openKeptOrFree(open func(context.Context, socket) (*os.File, error)) func(context.Context, socket) (*os.File, error) {
	return func(ctx context.Context, s socket) (*os.File, error) {
		f, err := open(ctx, s)
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Field != s.portField {
			return f, err
		}
		host, _, _ := net.SplitHostPort(s.address)
		s.address = joinPort(host, 0)
		return open(ctx, s)
	}
}
