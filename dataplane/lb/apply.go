package lb

import (
	"errors"
	"iter"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// wanted is the plan for one Service in one target.
type wanted struct {
	service   *service // nil: gone
	frontends []table.Frontend
	// checks are the health check node ports on the node.
	checks map[corev1.IPFamily]check
}

// apply plans what changed and writes it. It returns the Services that could
// not be written.
func (l *Loader) apply(c change) map[*known]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := map[*known]error{}
	for i, t := range l.targets {
		services := c.services
		if c.all {
			if err := t.table.SetNodes(l.nodeAddresses(t)); err != nil {
				l.log.Error("node addresses not programmed", "maps", t.name, "err", err)
			}
			services = l.feed.allServices()
		}
		if !t.filled {
			t.filled = true
			var beside []table.Frontend
			if i == 0 {
				beside = slices.Collect(maps.Values(l.hostPorts.frontends))
			}
			l.fill(t, services, beside, failed)
		} else {
			l.follow(t, services, failed)
		}
		l.departures.add(t, t.table.Departed())
	}
	l.feed.settled(c)
	return failed
}

// plans plans Services for a target, one by one. On the way it keeps the
// health check node ports of the node.
func (l *Loader) plans(t *target, services []*known) iter.Seq2[*known, wanted] {
	return func(yield func(*known, wanted) bool) {
		changed := false
		for k, w := range l.feed.plan(services, t.node) {
			changed = t.node != "" && l.health.note(k.name, w.checks) || changed
			if !yield(k, w) {
				break
			}
		}
		if !changed {
			return
		}
		if err := l.health.update(); err != nil {
			l.log.Error("health check node ports", "err", err)
		}
	}
}

// follow brings the entries of some Services in a target to their plans.
func (l *Loader) follow(t *target, services []*known, failed map[*known]error) {
	for k, w := range l.plans(t, services) {
		if err := l.write(t, k, w); err != nil {
			failed[k] = errors.Join(failed[k], err)
		}
	}
}

// fill makes the plans, and what is beside them, all that a target holds.
func (l *Loader) fill(t *target, services []*known, beside []table.Frontend, failed map[*known]error) {
	all := slices.Grow(beside, len(services))
	for k, w := range l.plans(t, services) {
		got, taken, _, _ := t.claims.settle(k, w.frontends)
		all = append(all, got...)
		l.report.taken(k.name, w.service, taken)
	}
	t.claims.rooms = nil
	unserved := l.servePackets(t, all...)
	for key, err := range t.table.Replace(all) {
		if k := t.claims.ownerOf(key); k != nil && k.name.Namespace != "" {
			failed[k] = errors.Join(failed[k], err)
		} else {
			l.log.Error("service map entry not removed", "maps", t.name, "key", key, "err", err)
		}
	}
	if unserved == nil {
		return
	}
	for _, f := range all {
		if k := t.claims.ownerOf(f.Key); ofSCTP(f) && k != nil && k.name.Namespace != "" {
			failed[k] = errors.Join(failed[k], unserved)
		}
	}
}

// write brings one Service's entries of a target to the plan.
func (l *Loader) write(t *target, k *known, w wanted) error {
	got, taken, gone, freed := t.claims.settle(k, w.frontends)
	l.report.taken(k.name, w.service, taken)
	errs := []error{l.servePackets(t, got...)}
	for _, f := range got {
		if _, err := t.table.Set(f); err != nil {
			errs = append(errs, err)
		}
	}
	for _, key := range gone {
		if err := t.table.Delete(key); err != nil {
			errs = append(errs, err)
		}
	}
	if len(freed) > 0 {
		l.feed.touch(freed...)
	}
	return errors.Join(errs...)
}

// nodeAddresses are the addresses on which node ports answer in a target.
func (l *Loader) nodeAddresses(t *target) map[netip.Addr]bool {
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	out := map[netip.Addr]bool{}
	for name, n := range l.feed.nodes {
		for _, a := range n.addrs {
			out[a] = name == t.node
		}
	}
	if t.node != "" {
		// Known before the Node object is.
		for _, a := range l.cfg.NodeIPs {
			out[a] = true
		}
	}
	return out
}

// serviceOf is a Service as last seen, or nil.
func (f *feed) serviceOf(k *known) *service {
	f.mu.Lock()
	defer f.mu.Unlock()
	return k.service
}

// allServices are the Services that exist or may be in the maps, oldest first:
// who came first keeps an address that two ask for.
func (f *feed) allServices() []*known {
	f.mu.Lock()
	defer f.mu.Unlock()
	return byAge(f.services.all(), f.services.len())
}

// plan plans Services as node sees them (empty: as the outside does), one
// after the other: whoever takes them may change the feed meanwhile.
func (f *feed) plan(services []*known, node string) iter.Seq2[*known, wanted] {
	return func(yield func(*known, wanted) bool) {
		for _, k := range services {
			if !yield(k, f.planOne(k, node)) {
				return
			}
		}
	}
}

func (f *feed) planOne(k *known, node string) wanted {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k.service == nil {
		return wanted{}
	}
	f.planned = k.all(f.planned)
	w := wanted{service: k.service, frontends: plan(k.service, f.planned, view{node: node, nodes: f.nodes})}
	if node != "" {
		w.checks = checksOf(k.service, f.planned, node)
	}
	return w
}
