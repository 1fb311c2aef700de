package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/test/bench/cgroup"
	"github.com/skiff-k8s/skiff/test/bench/dataplane/arena"
	"github.com/skiff-k8s/skiff/test/bench/dataplane/world"
)

const (
	// settle is how long agents idle before their memory is read.
	settle = 2 * time.Second
	// quiet is longer than kube-proxy waits between two syncs: a change after
	// it is served at once. So many changes are made that way.
	quiet = 1200 * time.Millisecond
	alone = 5
)

// agents starts a crew's agents one after another, follows changes to every
// node and leaves the first agent, frozen.
func (t *theatre) agents(ctx context.Context, c *crew, size int) (*Agent, error) {
	a := &Agent{}
	for i := range c.nodes {
		if err := t.load(c, i, size, a); err != nil {
			return nil, err
		}
	}
	time.Sleep(settle)
	for _, p := range c.agents {
		m, err := memoryOf(p.PID())
		if err != nil {
			return nil, err
		}
		a.add(m)
	}
	for range c.changes {
		if err := t.change(ctx, c, 0, &a.Series); err != nil {
			return nil, err
		}
	}
	for range min(c.changes, alone) {
		if err := t.change(ctx, c, quiet, &a.Alone); err != nil {
			return nil, err
		}
	}
	if c.observed != nil {
		if err := t.observe(ctx, c, a); err != nil {
			return nil, err
		}
	}
	for _, p := range c.agents[1:] {
		if err := p.Stop(); err != nil {
			return nil, fmt.Errorf("stop agent: %w", err)
		}
	}
	return a, c.agents[0].Freeze()
}

// load starts one agent and waits until the last Service answers.
func (t *theatre) load(c *crew, i, size int, a *Agent) error {
	begin := monotonic()
	p, err := c.start(c.nodes[i])
	if err != nil {
		return err
	}
	t.undo = append(t.undo, func() error { _ = p.Thaw(); return p.Stop() })
	c.agents = append(c.agents, p)
	at, err := c.until(true, world.Address(size-1), c.probes[i:i+1])
	if err != nil {
		return fmt.Errorf("initial load: %w", err)
	}
	cpu, err := cgroup.CPU(c.nodes[i].Cgroup() + "/agent")
	if err != nil {
		return err
	}
	a.LoadSeconds = append(a.LoadSeconds, float64(at[0]-begin)/1e9)
	a.LoadCPUSeconds = append(a.LoadCPUSeconds, cpu.Seconds())
	if c.observed == nil {
		return nil
	}
	r, err := reportOf(p)
	a.FillMillis = append(a.FillMillis, float64(r.Fill.Microseconds())/1e3)
	return err
}

// change takes the first Service its endpoint and gives it back after a
// while, and notes how long after the API write every node's clients got
// through.
func (t *theatre) change(ctx context.Context, c *crew, after time.Duration, to *Changes) error {
	if err := t.world.SetEndpoints(ctx, 0, nil); err != nil {
		return err
	}
	if _, err := c.until(false, world.Address(0), c.probes); err != nil {
		return fmt.Errorf("endpoint gone: %w", err)
	}
	time.Sleep(after)
	type arrival struct {
		at  []int64
		err error
	}
	arrived := make(chan arrival)
	go func() {
		at, err := c.until(true, world.Address(0), c.probes)
		arrived <- arrival{at, err}
	}()
	begin := monotonic()
	err := t.world.SetEndpoints(ctx, 0, backends(1))
	written := monotonic()
	got := <-arrived
	if err != nil {
		return err
	}
	if got.err != nil {
		return fmt.Errorf("endpoint there: %w", got.err)
	}
	last := got.at[0]
	for _, at := range got.at[1:] {
		last = max(last, at)
	}
	to.WriteMillis = append(to.WriteMillis, float64(written-begin)/1e6)
	to.EveryNodeMillis = append(to.EveryNodeMillis, float64(last-begin)/1e6)
	return nil
}

// observe has the last node's agent take over from itself and say how long
// after an event its map was changed. The others have ended: the observer
// looks at the map without a pause.
func (t *theatre) observe(ctx context.Context, c *crew, a *Agent) error {
	last := len(c.nodes) - 1
	if err := c.agents[last].Stop(); err != nil {
		return err
	}
	p, err := c.observed(c.nodes[last])
	if err != nil {
		return err
	}
	c.agents[last] = p
	t.undo = append(t.undo, p.Stop)
	if _, err := reportOf(p); err != nil { // it is filled
		return err
	}
	for i := range 2 * c.changes {
		var b []netip.AddrPort
		if i%2 == 1 {
			b = backends(1)
		}
		if err := t.world.SetEndpoints(ctx, 0, b); err != nil {
			return err
		}
		r, err := reportOf(p)
		if err != nil {
			return err
		}
		a.ChangeMicros = append(a.ChangeMicros, float64(r.Change.Nanoseconds())/1e3)
	}
	return nil
}

// agentReport is a line of skiff's agent.
type agentReport struct {
	Fill   time.Duration `json:"fill"`
	Change time.Duration `json:"change"`
}

func reportOf(p *arena.Process) (r agentReport, err error) {
	line, err := p.Line()
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(line), &r)
}

func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // the clock is always there
	}
	return t.Nano()
}
