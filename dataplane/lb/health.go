package lb

import (
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
)

// health answers on the health check node ports of Services with
// externalTrafficPolicy Local: a load balancer asks them whether this node
// has endpoints. The server is upstream's.
type health struct {
	server healthcheck.ServiceHealthServer
	ports  map[types.NamespacedName]uint16
	local  map[types.NamespacedName]int
}

func newHealth(node string) *health {
	return &health{
		server: healthcheck.NewServiceHealthServer(node, nil, proxyutil.NewNodePortAddresses(corev1.IPv4Protocol, nil), serving{}, corev1.IPv4Protocol),
		ports:  map[types.NamespacedName]uint16{},
		local:  map[types.NamespacedName]int{},
	}
}

// serving is the health of the proxy itself: while the process is there to be
// asked, its maps are in force.
type serving struct{}

// Health is what the server asks for.
func (serving) Health() healthcheck.ProxyHealth { return healthcheck.ProxyHealth{Healthy: true} }

// update brings the ports in line with the plans for some Services.
func (h *health) update(plans map[types.NamespacedName]wanted) error {
	ports, local := maps.Clone(h.ports), maps.Clone(h.local)
	for name, w := range plans {
		delete(ports, name)
		delete(local, name)
		if w.healthPort != 0 {
			ports[name], local[name] = w.healthPort, w.localReady
		}
	}
	if maps.Equal(ports, h.ports) && maps.Equal(local, h.local) {
		return nil
	}
	h.ports, h.local = ports, local
	if err := h.server.SyncServices(ports); err != nil {
		return err
	}
	return h.server.SyncEndpoints(local)
}

// close closes all ports.
func (h *health) close() error { return h.server.SyncServices(nil) }

// healthPortOf is a Service's health check node port, or 0.
func healthPortOf(s *service) uint16 {
	for _, p := range s.ports {
		if n := p.HealthCheckNodePort(); n != 0 {
			return uint16(n)
		}
	}
	return 0
}

// localReady counts the ready endpoints of a Service on a node, by address.
func localReady(all map[string]*slice, node string) int {
	addrs := map[netip.Addr]struct{}{}
	for _, s := range all {
		for _, e := range s.endpoints {
			if e.ready && e.node == node {
				addrs[e.addr] = struct{}{}
			}
		}
	}
	return len(addrs)
}
