package lifeline

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

const (
	// askBound is how long a control plane that serves may take to say so. It
	// is generous: the next one is asked only afterwards.
	askBound = 500 * time.Millisecond
	// patience is how long a connection is waited for, as one to the only
	// control plane waits in its queue while that starts.
	patience = 5 * time.Second
	// again is between two rounds.
	again = 20 * time.Millisecond
)

// Dialer connects to one of several API servers: to the first in order that
// says that it serves. Its Dial is a rest.Config's.
type Dialer struct {
	// Servers are the API servers' addresses on the fabric, the preferred one
	// first.
	Servers []netip.AddrPort

	mu sync.Mutex // held while one caller asks for all
	// found is who served last, and when that was.
	found netip.AddrPort
	when  time.Time
}

const lifelinePort = machinev1alpha1.LifelinePort

// fresh is how long an answer holds for others who connect: a start makes
// several connections at once.
const fresh = 50 * time.Millisecond

// Dial ignores the address: every server is as good.
func (d *Dialer) Dial(ctx context.Context, network, _ string) (net.Conn, error) {
	server, err := d.find(ctx)
	if err != nil {
		// As if nobody listened, which callers know what to do about.
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	dialer := net.Dialer{Timeout: connectBound}
	return dialer.DialContext(ctx, network, server.String())
}

func (d *Dialer) find(ctx context.Context) (netip.AddrPort, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.when) < fresh {
		return d.found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		for _, s := range d.Servers {
			at := netip.AddrPortFrom(s.Addr(), lifelinePort)
			if state, _ := Ask(ctx, at, askBound); state == Serving {
				d.found, d.when = s, time.Now()
				return s, nil
			}
		}
		select {
		case <-ctx.Done():
			return netip.AddrPort{}, fmt.Errorf("none of the API servers %v serves", d.Servers)
		case <-time.After(again):
		}
	}
}
