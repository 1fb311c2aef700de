package lb

import (
	"errors"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
)

// health answers on the health check node ports of Services with
// externalTrafficPolicy Local: a load balancer asks them whether this node
// has endpoints. The servers are upstream's, one for each of the node's
// address families.
type health struct {
	servers map[corev1.IPFamily]healthcheck.ServiceHealthServer
	checks  map[types.NamespacedName]map[corev1.IPFamily]check
}

// check is a health check node port and how many ready endpoints it reports.
type check struct {
	port  uint16
	local int
}

func newHealth(node string, addrs []netip.Addr, proxy *healthcheck.ProxyHealthServer) *health {
	h := &health{
		servers: map[corev1.IPFamily]healthcheck.ServiceHealthServer{},
		checks:  map[types.NamespacedName]map[corev1.IPFamily]check{},
	}
	for _, a := range addrs {
		f := familyOf(a)
		if h.servers[f] == nil {
			h.servers[f] = healthcheck.NewServiceHealthServer(node, nil, proxyutil.NewNodePortAddresses(f, nil), proxy, f)
		}
	}
	return h
}

// note takes the checks of a Service; it says whether they changed.
func (h *health) note(name types.NamespacedName, checks map[corev1.IPFamily]check) bool {
	if maps.Equal(h.checks[name], checks) {
		return false
	}
	if len(checks) == 0 {
		delete(h.checks, name)
	} else {
		h.checks[name] = checks
	}
	return true
}

// update brings the ports in line with what was noted.
func (h *health) update() error {
	var errs []error
	for family, server := range h.servers {
		ports, local := map[types.NamespacedName]uint16{}, map[types.NamespacedName]int{}
		for name, checks := range h.checks {
			if c, ok := checks[family]; ok {
				ports[name], local[name] = c.port, c.local
			}
		}
		errs = append(errs, server.SyncServices(ports), server.SyncEndpoints(local))
	}
	return errors.Join(errs...)
}

// close closes all ports.
func (h *health) close() error {
	var errs []error
	for _, server := range h.servers {
		errs = append(errs, server.SyncServices(nil))
	}
	return errors.Join(errs...)
}

// checksOf are a Service's health check node ports on a node; nil for none.
func checksOf(s *service, all []*slice, node string) map[corev1.IPFamily]check {
	var out map[corev1.IPFamily]check
	for i := range s.ports {
		p := &s.ports[i]
		if _, has := out[p.family()]; has || p.healthCheck == 0 {
			continue
		}
		if out == nil {
			out = map[corev1.IPFamily]check{}
		}
		out[p.family()] = check{port: p.healthCheck, local: localReady(all, p.family(), node)}
	}
	return out
}

// localReady counts one family's ready endpoints of a Service on a node, by
// address.
func localReady(all []*slice, family corev1.IPFamily, node string) int {
	addrs := map[netip.Addr]struct{}{}
	for _, s := range all {
		if s.family() != family {
			continue
		}
		for _, e := range s.endpoints {
			if e.ready && e.node.Value() == node {
				addrs[e.addr] = struct{}{}
			}
		}
	}
	return len(addrs)
}
