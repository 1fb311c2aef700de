package lb

import (
	"sync"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// departures are the backends that left and whose traces are to be removed:
// beside the programming of services, which waits for nobody.
type departures struct {
	wake chan struct{}

	// mu guards gone.
	mu   sync.Mutex
	gone map[*target][]table.Departure
}

func newDepartures() *departures {
	return &departures{wake: make(chan struct{}, 1), gone: map[*target][]table.Departure{}}
}

func (d *departures) add(t *target, gone []table.Departure) {
	if len(gone) == 0 {
		return
	}
	d.mu.Lock()
	d.gone[t] = append(d.gone[t], gone...)
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *departures) take() map[*target][]table.Departure {
	d.mu.Lock()
	defer d.mu.Unlock()
	gone := d.gone
	d.gone = map[*target][]table.Departure{}
	return gone
}

// tidy removes what is left of backends that went, until done is closed: affinities,
// flows through the switch, and sockets.
func (l *Loader) tidy(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-l.departures.wake:
		}
		for t, gone := range l.departures.take() {
			l.tidyTarget(t, gone)
		}
	}
}

func (l *Loader) tidyTarget(t *target, gone []table.Departure) {
	n, err := t.table.ForgetAffinities(gone)
	l.meters.affinities.Add(float64(n))
	if err != nil {
		l.log.Error("affinities to a backend that left stay", "maps", t.name, "err", err)
	}
	if t.flows != nil {
		n, err := t.flows.Forget(gone)
		if err == nil && n > 0 {
			l.mu.Lock()
			err = t.table.CountForgotten(n)
			l.mu.Unlock()
		}
		if err != nil {
			l.log.Error("flows to a backend that left stay", "maps", t.name, "err", err)
		}
	}
	if t.node != "" {
		n, err := l.stale.end(gone)
		l.meters.destroyed.Add(float64(n))
		if err != nil {
			l.log.Error("UDP sockets stay with a backend that left", "err", err)
		}
	}
}
