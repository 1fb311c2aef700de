package lb

import (
	"errors"
	"iter"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

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
func (l *Loader) apply(c change) map[types.NamespacedName]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := map[types.NamespacedName]error{}
	for i, t := range l.targets {
		names := c.services
		if c.all {
			if err := t.table.SetNodes(l.nodeAddresses(t)); err != nil {
				l.log.Error("node addresses not programmed", "maps", t.name, "err", err)
			}
			names = l.feed.allServices(t.claims)
		}
		if !t.filled {
			t.filled = true
			var beside []table.Frontend
			if i == 0 {
				beside = slices.Collect(maps.Values(l.hostPorts.frontends))
			}
			l.fill(t, names, beside, failed)
		} else {
			l.follow(t, names, failed)
		}
		l.departures.add(t, t.table.Departed())
	}
	return failed
}

// plans plans Services for a target, one by one. On the way it keeps the
// health check node ports of the node.
func (l *Loader) plans(t *target, names []types.NamespacedName) iter.Seq2[types.NamespacedName, wanted] {
	return func(yield func(types.NamespacedName, wanted) bool) {
		changed := false
		for name, w := range l.feed.plan(names, t.node) {
			changed = t.node != "" && l.health.note(name, w.checks) || changed
			if !yield(name, w) {
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
func (l *Loader) follow(t *target, names []types.NamespacedName, failed map[types.NamespacedName]error) {
	for name, w := range l.plans(t, names) {
		if err := l.write(t, name, w); err != nil {
			failed[name] = errors.Join(failed[name], err)
		}
	}
}

// fill makes the plans, and what is beside them, all that a target holds.
func (l *Loader) fill(t *target, names []types.NamespacedName, beside []table.Frontend, failed map[types.NamespacedName]error) {
	all := slices.Grow(beside, len(names))
	for name, w := range l.plans(t, names) {
		got, taken, _, _ := t.claims.settle(name, w.frontends)
		all = append(all, got...)
		l.report.problems(w.service, taken)
	}
	for key, err := range t.table.Replace(all) {
		if name, ok := t.claims.ownerOf(key); ok {
			failed[name] = errors.Join(failed[name], err)
		} else {
			l.log.Error("service map entry not removed", "maps", t.name, "key", key, "err", err)
		}
	}
}

// write brings one Service's entries of a target to the plan.
func (l *Loader) write(t *target, name types.NamespacedName, w wanted) error {
	got, taken, gone, freed := t.claims.settle(name, w.frontends)
	l.report.problems(w.service, taken)
	var errs []error
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

// service is a Service as last seen, or nil.
func (f *feed) service(name types.NamespacedName) *service {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := f.services[name]; k != nil {
		return k.service
	}
	return nil
}

// allServices are the names of the Services that exist or still have claims,
// oldest first: who came first keeps an address that two ask for.
func (f *feed) allServices(c *claims) []types.NamespacedName {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := byAge(f, f.services)
	for name := range c.keys {
		if _, ok := f.services[name]; !ok && name.Namespace != "" {
			names = append(names, name)
		}
	}
	return names
}

// plan plans Services as node sees them (empty: as the outside does), one
// after the other: whoever takes them may change the feed meanwhile.
func (f *feed) plan(names []types.NamespacedName, node string) iter.Seq2[types.NamespacedName, wanted] {
	return func(yield func(types.NamespacedName, wanted) bool) {
		for _, name := range names {
			if !yield(name, f.planOne(name, node)) {
				return
			}
		}
	}
}

func (f *feed) planOne(name types.NamespacedName, node string) wanted {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.services[name]
	if k == nil || k.service == nil {
		return wanted{}
	}
	w := wanted{service: k.service, frontends: plan(k.service, k.slices, view{node: node, nodes: f.nodes})}
	if node != "" {
		w.checks = checksOf(k.service, k.slices, node)
	}
	return w
}
