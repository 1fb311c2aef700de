package nodelifecycle

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/component-helpers/node/topology"
)

// Upstream's defaults: nodes evicted per second in a healthy zone, in an
// unhealthy large one, how many nodes are large, and what part of at least
// three nodes is unhealthy.
const (
	evictionRate          = 0.1
	secondaryEvictionRate = 0.01
	largeZone             = 50
	unhealthyPart         = 0.55
)

// excluded takes a node out of the count of its zone.
const excluded = "node.kubernetes.io/exclude-disruption"

// zoneRate is how many nodes a second may be evicted in a zone.
func zoneRate(ready, unready int) float32 {
	switch {
	case ready == 0:
		// All of the zone, but not all of the cluster: the zone is lost.
		return evictionRate
	case unready > 2 && float32(unready)/float32(ready+unready) >= unhealthyPart:
		if ready+unready > largeZone {
			return secondaryEvictionRate
		}
		return 0
	default:
		return evictionRate
	}
}

// zone limits evictions.
type zone struct {
	rate    float32
	limiter flowcontrol.RateLimiter
}

// zones count the nodes that are ready, and say how fast nodes may be evicted.
type zones struct {
	// mu guards all fields.
	mu    sync.Mutex
	zones map[string]*zone
	// lost is true when no node of the cluster is ready.
	lost bool
}

func newZones() *zones {
	return &zones{zones: map[string]*zone{}}
}

// turn is what a count changed.
type turn struct {
	// changed is true when all nodes must be looked at: none is ready any
	// more, one is again, or a zone has another rate.
	changed bool
	// regained is true when a node is ready after none was: the silence of the
	// others may have been ours.
	regained bool
}

// count counts the nodes of the cluster anew.
func (z *zones) count(nodes []*corev1.Node) turn {
	type tally struct{ ready, unready int }
	tallies, lost := map[string]tally{}, true
	for _, n := range nodes {
		if _, ok := n.Labels[excluded]; ok {
			continue
		}
		key := topology.GetZoneKey(n)
		t := tallies[key]
		if c := condition(n, corev1.NodeReady); c != nil && c.Status == corev1.ConditionTrue {
			t.ready++
			lost = false
		} else {
			t.unready++
		}
		tallies[key] = t
	}
	lost = lost && len(tallies) > 0

	z.mu.Lock()
	defer z.mu.Unlock()
	out := turn{changed: z.lost != lost, regained: z.lost && !lost && len(tallies) > 0}
	z.lost = lost
	for name := range z.zones {
		if _, ok := tallies[name]; !ok {
			delete(z.zones, name)
		}
	}
	for name, t := range tallies {
		rate := zoneRate(t.ready, t.unready)
		if lost {
			rate = 0
		}
		if have := z.zones[name]; have == nil || have.rate != rate {
			z.zones[name] = newZone(rate)
			out.changed = out.changed || have != nil
		}
	}
	return out
}

func newZone(rate float32) *zone {
	if rate == 0 {
		return &zone{limiter: flowcontrol.NewFakeNeverRateLimiter()}
	}
	return &zone{rate: rate, limiter: flowcontrol.NewTokenBucketRateLimiter(rate, 1)}
}

// allLost tells whether no node of the cluster is ready.
func (z *zones) allLost() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.lost
}

// mayEvict takes one of the zone's permits, or says when to ask again; zero
// means when the zone's state is another one.
func (z *zones) mayEvict(node *corev1.Node) (ok bool, again time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	in := z.zones[topology.GetZoneKey(node)]
	if in == nil { // a zone of excluded nodes only
		in = newZone(evictionRate)
		z.zones[topology.GetZoneKey(node)] = in
	}
	if in.limiter.TryAccept() {
		return true, 0
	}
	if in.rate == 0 {
		return false, 0
	}
	return false, time.Duration(float32(time.Second) / in.rate / 10)
}
