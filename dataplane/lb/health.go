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

// update brings the ports in line with the plans for some Services.
func (h *health) update(plans map[types.NamespacedName]wanted) error {
	changed := false
	for name, w := range plans {
		if maps.Equal(h.checks[name], w.checks) {
			continue
		}
		changed = true
		if len(w.checks) == 0 {
			delete(h.checks, name)
		} else {
			h.checks[name] = w.checks
		}
	}
	if !changed {
		return nil
	}
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
func checksOf(s *service, all map[string]*slice, node string) map[corev1.IPFamily]check {
	var out map[corev1.IPFamily]check
	for family, ports := range s.ports {
		for _, p := range ports {
			if n := p.HealthCheckNodePort(); n != 0 {
				if out == nil {
					out = map[corev1.IPFamily]check{}
				}
				out[family] = check{port: uint16(n), local: localReady(all, family, node)}
				break
			}
		}
	}
	return out
}

// localReady counts one family's ready endpoints of a Service on a node, by
// address.
func localReady(all map[string]*slice, family corev1.IPFamily, node string) int {
	addrs := map[netip.Addr]struct{}{}
	for _, s := range all {
		if s.family != family {
			continue
		}
		for _, e := range s.endpoints {
			if e.ready && e.node == node {
				addrs[e.addr] = struct{}{}
			}
		}
	}
	return len(addrs)
}
