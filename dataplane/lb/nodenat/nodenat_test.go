package nodenat_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/internal/sctp/sctptest"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, "")) }

const (
	servicePort = 5000
	targetPort  = 7000
	nodePort    = 30500
)

// cluster is a network whose places all answer.
type cluster struct {
	*network
	// a and b are pods of the first node, c of the second.
	a, b, c *place
}

func newCluster(t *testing.T) *cluster {
	c := unserved(t)
	for _, p := range append(c.backends(), c.host) {
		c.serve(p, targetPort)
	}
	return c
}

// unserved is a cluster where nobody answers yet.
func unserved(t *testing.T) *cluster {
	c := &cluster{network: newNetwork(t)}
	c.a, c.b, c.c = c.pod(c.nodes[0], "a"), c.pod(c.nodes[0], "b"), c.pod(c.nodes[1], "c")
	return c
}

func (c *cluster) backends() []*place {
	return []*place{c.a, c.b, c.c, &c.nodes[0].place, &c.nodes[1].place}
}

// serviceAt makes backends all that the service's addresses of a family have.
func (c *cluster) serviceAt(family int, backends ...*place) {
	c.Helper()
	var all []netip.AddrPort
	for _, b := range backends {
		all = append(all, netip.AddrPortFrom(b.addr(clusterIPs[family]), targetPort))
	}
	c.set(table.Key{Addr: clusterIPs[family], Port: servicePort}, nil, all...)
	c.set(table.Key{Addr: balancerIPs[family], Port: servicePort}, nil, all...)
	c.set(table.Key{Addr: everyNode[family], Port: nodePort, Scope: table.AnyNode}, nil, all...)
}

// called are the addresses of the service.
func (c *cluster) called(family int) map[string]netip.AddrPort {
	out := map[string]netip.AddrPort{
		"the cluster address": netip.AddrPortFrom(clusterIPs[family], servicePort),
		"the balancer":        netip.AddrPortFrom(balancerIPs[family], servicePort),
	}
	for _, node := range c.nodes {
		out[node.name] = netip.AddrPortFrom(node.IPs[family], nodePort)
	}
	return out
}

// TestEverybodyReachesEverybody: from pods, nodes and the host, by every
// address of a service, to pods and nodes, also to the caller itself.
func TestEverybodyReachesEverybody(t *testing.T) {
	c := newCluster(t)
	port := uint16(40000)
	for family := range clusterIPs {
		for _, backend := range c.backends() {
			c.serviceAt(family, backend)
			for name, to := range c.called(family) {
				for _, client := range append(c.backends(), c.host) {
					port++
					want := fmt.Sprintf("%s sees %s", backend.name, c.seen(client, backend, to.Addr()))
					if said, err := c.call(client, port, to); err != nil || said != want {
						t.Errorf("%s by %s (%s): %q, %v; want %q", client.name, name, to, said, err, want)
					}
				}
			}
		}
	}
}

// seen is the address under which a backend sees a client: the client's own,
// but a pod that calls itself sees its node.
func (c *cluster) seen(client, backend *place, to netip.Addr) netip.Addr {
	switch {
	case client != backend:
		return client.addr(to)
	case client == c.c:
		return c.nodes[1].addr(to)
	case client == c.a || client == c.b:
		return c.nodes[0].addr(to)
	}
	return client.addr(to)
}

// TestAllBackendsAreUsed, and one of them only where the client is held.
func TestAllBackendsAreUsed(t *testing.T) {
	c := newCluster(t)
	for family := range clusterIPs {
		c.serviceAt(family, c.a, c.b, c.c)
		to := netip.AddrPortFrom(clusterIPs[family], servicePort)
		seen := map[string]bool{}
		for port := uint16(41000); len(seen) < 3; port++ {
			said, err := c.call(&c.nodes[1].place, port, to)
			if err != nil || port == 41500 {
				t.Fatalf("after %d calls: %v, %v", port-41000, seen, err)
			}
			seen[said] = true
		}
	}
}

// TestNobodyServes: what has no endpoints refuses at once. (So do nodes'
// addresses, but for the raw sockets of these tests there.)
func TestNobodyServes(t *testing.T) {
	c := newCluster(t)
	for family := range clusterIPs {
		c.serviceAt(family)
		for _, addr := range []netip.Addr{clusterIPs[family], balancerIPs[family]} {
			to := netip.AddrPortFrom(addr, servicePort)
			for _, client := range []*place{c.a, &c.nodes[0].place, c.host} {
				if _, err := c.call(client, 42000, to); !errors.Is(err, errRefused) {
					t.Errorf("%s by %s: %v, want %v", client.name, to, err, errRefused)
				}
			}
		}
	}
}

// TestChecksumsOfDevicesStay: a stack leaves the checksum to the device that a
// packet leaves by (CHECKSUM_PARTIAL), which needs zero in its place.
func TestChecksumsOfDevicesStay(t *testing.T) {
	c := newCluster(t)
	port := uint16(43000)
	for family := range clusterIPs {
		to := netip.AddrPortFrom(clusterIPs[family], servicePort)
		for _, backend := range []*place{c.b, c.c} {
			c.serviceAt(family, backend)
			port++
			a := c.dial(c.a, port, to)
			c.must(sendUnsummed(c.a, message{src: port, dst: to.Port(), chunk: sctptest.Init, unsummed: true}, to.Addr()))
			if said, err := a.await(sctptest.InitAck); err != nil || said != "unsummed" {
				t.Errorf("%s got an INIT that is %q, %v; want it unsummed", backend.name, said, err)
			}
		}
	}
}

// TestOnlySourcesMayCall: others get no answer, as upstream.
func TestOnlySourcesMayCall(t *testing.T) {
	c := newCluster(t)
	for family := range clusterIPs {
		to := netip.AddrPortFrom(balancerIPs[family], servicePort)
		allowed := c.a.addr(to.Addr())
		c.set(table.Key{Addr: to.Addr(), Port: servicePort}, func(f *table.Frontend) {
			f.Sources = []netip.Prefix{netip.PrefixFrom(allowed, allowed.BitLen())}
		}, netip.AddrPortFrom(c.b.addr(to.Addr()), targetPort))
		if _, err := c.call(c.a, 44000, to); err != nil {
			t.Errorf("who may call: %v", err)
		}
		silent := c.dial(c.c, 44001, to)
		c.must(silent.send(sctptest.Init))
		// What was sent later is answered.
		if _, err := c.call(c.a, 44002, to); err != nil {
			t.Errorf("who may call: %v", err)
		}
		refused, err := c.nodes[1].table.Stats()
		if err != nil || refused.Counters[table.RefusedSource] == 0 {
			t.Errorf("%v, %v: no refusal counted", refused.Counters, err)
		}
	}
}

// TestAnotherNodesOwnBackends: externalTrafficPolicy Local shows who calls
// another node's port that node's own.
func TestAnotherNodesOwnBackends(t *testing.T) {
	c := newCluster(t)
	for family := range clusterIPs {
		backends := map[bool]*place{true: c.a, false: c.c}
		other := c.nodes[1].IPs[family]
		for own, f := range map[bool]table.Frontend{
			true:  {Key: table.Key{Addr: everyNode[family], Port: nodePort, Scope: table.AnyNode}, NodeOwn: true},
			false: {Key: table.Key{Addr: other, Port: nodePort, Scope: table.FromNode}},
		} {
			f.Proto = inet.SCTP
			f.Backends = []netip.AddrPort{netip.AddrPortFrom(backends[own].addr(other), targetPort)}
			_, err := c.nodes[0].table.Set(f)
			c.must(err)
		}
		for i, want := range []*place{c.a, c.c} {
			for j, client := range []*place{c.b, &c.nodes[0].place} {
				want := fmt.Sprintf("%s sees %s", want.name, client.addr(other))
				to := netip.AddrPortFrom(c.nodes[i].IPs[family], nodePort)
				if said, err := c.call(client, uint16(45000+10*i+j), to); err != nil || said != want {
					t.Errorf("%s calls %s: %q, %v; want %q", client.name, to, said, err, want)
				}
			}
		}
	}
}
