package table

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// Departure is a backend that serves a service port no more, neither new
// connections nor old flows.
type Departure struct {
	Group   uint32
	Proto   inet.Protocol
	Backend netip.AddrPort
}

// depart notes whom a frontend had and has no more. What is pinned to it
// where nobody else notices are UDP flows and affinities.
func (t *Table) depart(key tablesLbKey, have entry, now content) {
	if have.set == nil || have.set.broken || (key.Proto != uint8(inet.UDP) && have.affinityS == 0) {
		return
	}
	for _, b := range have.set.backends {
		if now.has(b) {
			continue
		}
		if t.departed == nil {
			t.departed = map[Departure]struct{}{}
		}
		t.departed[Departure{Group: have.group, Proto: inet.Protocol(key.Proto), Backend: backendFrom(b)}] = struct{}{}
	}
}

// Departed are the backends that left since it was asked last.
func (t *Table) Departed() []Departure {
	out := slices.Collect(maps.Keys(t.departed))
	t.departed = nil
	return out
}

// ForgetAffinities removes what holds clients at backends that are gone, and
// says how many that were. It may run beside any other method.
func (t *Table) ForgetAffinities(gone []Departure) (int, error) {
	affinities, err := dump[tablesLbClient, tablesLbAffinity](t.maps.LbAffinities)
	if err != nil {
		return 0, fmt.Errorf("read affinities: %w", err)
	}
	type pin struct {
		group   uint32
		backend tablesLbBackend
	}
	pins := make(map[pin]struct{}, len(gone))
	for _, d := range gone {
		pins[pin{d.Group, rawBackend(d.Backend)}] = struct{}{}
	}
	n := 0
	for client, a := range affinities {
		if _, ok := pins[pin{client.Group, a.Backend}]; !ok {
			continue
		}
		if err := t.maps.LbAffinities.Delete(&client); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return n, fmt.Errorf("forget affinity: %w", err)
		}
		n++
	}
	return n, nil
}
