package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	// patience is how long an event's effect on the map is waited for: some
	// events are of other objects.
	patience = 2 * time.Second
	// pause is the time between two looks, which is also how exact the
	// figures are. Without one the observer would take the observed's core.
	pause = 20 * time.Microsecond
)

// observer looks at one entry of the loader's map.
type observer struct {
	services *ebpf.Map
	key      []byte
	before   []byte
}

func newObserver(f flags) (*observer, error) {
	addr, err := netip.ParseAddr(f.observe)
	if err != nil {
		return nil, fmt.Errorf("-observe: %w", err)
	}
	services, err := ebpf.LoadPinnedMap(filepath.Join(f.pins, "lb_services"), nil)
	if err != nil {
		return nil, fmt.Errorf("open the loader's map: %w", err)
	}
	o := &observer{services: services}
	if o.key, o.before, err = entry(services, addr); err != nil {
		return nil, errors.Join(err, services.Close())
	}
	return o, nil
}

// run reports how long after an event the entry changed.
func (o *observer) run(ctx context.Context, seen *arrivals, out *json.Encoder) error {
	defer o.services.Close()
	value := bytes.Clone(o.before)
	runtime.LockOSThread() // the timer slack is the thread's
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	nap := unix.NsecToTimespec(int64(pause))
	for {
		var at time.Time
		select {
		case <-ctx.Done():
			return nil
		case at = <-seen.events:
		}
		for bytes.Equal(value, o.before) && time.Since(at) < patience {
			_ = unix.Nanosleep(&nap, nil) // cut short is as good
			if err := o.services.Lookup(o.key, value); err != nil {
				return fmt.Errorf("read the loader's map: %w", err)
			}
		}
		took := time.Since(at)
		if bytes.Equal(value, o.before) {
			continue
		}
		copy(o.before, value)
		// The rest of the same event.
		select {
		case <-seen.events:
		default:
		}
		if err := out.Encode(report{Change: took}); err != nil {
			return err
		}
	}
}

// entry finds the key that has the address in it, whatever else a key is.
func entry(services *ebpf.Map, addr netip.Addr) (key, value []byte, err error) {
	all := services.Iterate()
	for all.Next(&key, &value) {
		if bytes.Contains(key, addr.AsSlice()) {
			return key, value, nil
		}
	}
	return nil, nil, fmt.Errorf("-observe: no entry for %s: %w", addr, all.Err())
}
