package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/skiff-k8s/skiff/test/bench/dataplane/world"
)

const (
	// In every round each crew makes so many connections and exchanges.
	connections, exchanges = 400, 2000
	// Every streamsEvery rounds it sends for streamTime.
	streamsEvery = 3
	streamTime   = 100 * time.Millisecond
)

// paths times connections, exchanges and streams of every crew, in turn.
func (t *theatre) paths(endpoints, rounds int) (map[string]*Path, error) {
	got := map[string]*Path{}
	for _, c := range t.crews {
		targets := []netip.AddrPort{world.Address(0)}
		if c.start == nil {
			targets = backends(endpoints)
		}
		if _, err := c.timed.Do("targets " + addresses(targets)); err != nil {
			return nil, err
		}
		got[c.name] = &Path{}
		// The first ones fill caches.
		if err := t.round(c, &Path{}); err != nil {
			return nil, err
		}
	}
	for r := range rounds {
		for i := range t.crews {
			c := t.crews[(i+r)%len(t.crews)] // nobody is always first
			if err := t.round(c, got[c.name]); err != nil {
				return nil, err
			}
		}
		if r%streamsEvery != 0 {
			continue
		}
		if err := t.streams(got); err != nil {
			return nil, err
		}
	}
	return got, nil
}

func (t *theatre) round(c *crew, p *Path) error {
	connected, err := c.timed.Do(fmt.Sprintf("connect %d", connections))
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	exchanged, err := c.timed.Do(fmt.Sprintf("exchange %d", exchanges))
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	p.Connect.add(connected)
	p.Exchange.add(exchanged)
	return nil
}

// streams has the server on the other core.
func (t *theatre) streams(got map[string]*Path) error {
	if err := t.server.RunOn(otherCPU); err != nil {
		return err
	}
	for _, c := range t.crews {
		a, err := c.timed.Do(fmt.Sprintf("stream %d", streamTime.Milliseconds()))
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		p := got[c.name]
		p.StreamGbits = append(p.StreamGbits, float64(a.Bytes)*8/float64(a.Elapsed))
	}
	return t.server.RunOn(measuringCPU)
}
