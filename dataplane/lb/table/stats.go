package table

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Counter is something that the programs count.
type Counter uint32

// What the programs count.
const (
	RefusedNoEndpoint = Counter(tablesLbCounterLB_REFUSED_NO_ENDPOINT)
	RefusedSource     = Counter(tablesLbCounterLB_REFUSED_SOURCE)
	RefusedBusy       = Counter(tablesLbCounterLB_REFUSED_BUSY)
	NATOpened         = Counter(tablesLbCounterLB_NAT_OPENED)
	NATClosed         = Counter(tablesLbCounterLB_NAT_CLOSED)
	NATNoPort         = Counter(tablesLbCounterLB_NAT_NO_PORT)
	NATForgotten      = Counter(tablesLbCounterLB_NAT_FORGOTTEN)
)

// Fill is how many entries a map has and can have.
type Fill struct{ Entries, Max int }

// Stats is the state of a table.
type Stats struct {
	Frontends int
	// Backends counts those that get new connections, once a frontend.
	Backends int
	// Maps are the fills by the maps' names.
	Maps     map[string]Fill
	Counters map[Counter]uint64
}

// Stats reads the state of the table.
func (t *Table) Stats() (Stats, error) {
	s := Stats{Frontends: len(t.mirror), Maps: map[string]Fill{}}
	for _, e := range t.mirror {
		if e.set != nil {
			s.Backends += e.set.count
		}
	}
	chunks, ranges := 0, 0
	for _, set := range t.sets.byID {
		chunks += chunksOf(len(set.backends))
	}
	for _, list := range t.sources {
		ranges += len(list.list)
	}
	affinities, err := dump[tablesLbClient, tablesLbAffinity](t.maps.LbAffinities)
	if err != nil {
		return s, fmt.Errorf("read affinities: %w", err)
	}
	identities, err := t.Identities()
	if err != nil {
		return s, err
	}
	for m, entries := range map[*ebpf.Map]int{
		t.maps.LbServices:   len(t.mirror),
		t.maps.LbChunks:     chunks,
		t.maps.LbSources:    ranges,
		t.maps.LbNodes:      len(t.nodes),
		t.maps.LbAffinities: len(affinities),
		t.maps.LbIdentities: len(identities),
	} {
		info, err := m.Info()
		if err != nil {
			return s, fmt.Errorf("read service maps: %w", err)
		}
		s.Maps[info.Name] = Fill{Entries: entries, Max: int(m.MaxEntries())}
	}
	s.Counters, err = t.counters()
	return s, err
}

func (t *Table) counters() (map[Counter]uint64, error) {
	out := map[Counter]uint64{}
	for c := range Counter(tablesLbCounterLB_COUNTERS) {
		var each []uint64
		if err := t.maps.LbCounters.Lookup(c, &each); err != nil {
			return nil, fmt.Errorf("read counters: %w", err)
		}
		for _, n := range each {
			out[c] += n
		}
	}
	return out, nil
}

// CountForgotten adds to NATForgotten, which only this does.
func (t *Table) CountForgotten(n int) error {
	c := NATForgotten
	var each []uint64
	if err := t.maps.LbCounters.Lookup(c, &each); err != nil {
		return fmt.Errorf("read counters: %w", err)
	}
	each[0] += uint64(n)
	if err := t.maps.LbCounters.Update(c, each, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write counters: %w", err)
	}
	return nil
}

// Evictions is how many flows the kernel threw out for want of room, of which
// some may live on: what was opened, has not ended and is not among those
// that are there.
func (s Stats) Evictions(flows int) int {
	c := s.Counters
	return max(0, int(c[NATOpened])-int(c[NATClosed])-int(c[NATForgotten])-flows)
}
