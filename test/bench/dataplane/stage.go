package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-k8s/skiff/test/bench/dataplane/arena"
	"github.com/skiff-k8s/skiff/test/bench/dataplane/world"
)

const (
	// nodesEach is how many nodes a subject has.
	nodesEach = 3
	// measuringCPU has the client, and the server of connections.
	measuringCPU, otherCPU = 1, 2
	// serverNumber is the server's node, callers' nodes are below.
	serverNumber = 100
	// limit bounds every wait for a Service.
	limit = 60 * time.Second
)

// crew is a subject's nodes and what runs on them.
type crew struct {
	subject
	nodes []*arena.Node
	// agents serve, one a node; probes call until something changes; timed
	// is the client whose connections are timed.
	agents []*arena.Process
	probes []*arena.Process
	timed  *arena.Process
}

// theatre is everything of one size.
type theatre struct {
	world  *world.World
	arena  *arena.Arena
	crews  []*crew
	server *arena.Process
	undo   []func() error
}

func (t *theatre) close() (err error) {
	for i := len(t.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, t.undo[i]())
	}
	return err
}

// stage measures everything at one number of Services, on new nodes.
func stage(ctx context.Context, t *theatre, all []subject, size int, o options) (got Size, err error) {
	got = Size{Services: size, Agents: map[string]*Agent{}, Paths: map[string]map[string]*Path{}}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := t.build(ctx, all); err != nil {
		return got, err
	}
	progress("%d services: writing them", size)
	hundred := backends(100)
	if err := t.world.Grow(ctx, size, func(i int) []netip.AddrPort {
		if i == 0 {
			return backends(1)
		}
		return hundred[i%100 : i%100+1]
	}); err != nil {
		return got, err
	}
	// The size before left it with a hundred.
	if err := t.world.SetEndpoints(ctx, 0, backends(1)); err != nil {
		return got, err
	}
	for _, c := range t.crews {
		if c.start == nil {
			continue
		}
		progress("%d services: %s's agents", size, c.name)
		if got.Agents[c.name], err = t.agents(ctx, c, size); err != nil {
			return got, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for _, n := range []int{1, 100} {
		if n > 1 {
			if err := t.reshape(ctx, n); err != nil {
				return got, err
			}
		}
		progress("%d services, %d endpoints: paths", size, n)
		if got.Paths[fmt.Sprint(n)], err = t.paths(n, o.rounds); err != nil {
			return got, err
		}
	}
	return got, nil
}

// build makes the nodes, the server and the callers.
func (t *theatre) build(ctx context.Context, all []subject) error {
	server, err := t.arena.AddNode("server", serverNumber)
	if err != nil {
		return err
	}
	t.undo = append(t.undo, server.Close)
	var addresses []netip.Addr
	for _, b := range backends(100) {
		addresses = append(addresses, b.Addr())
	}
	if err := server.AddAddresses(netip.PrefixFrom(addresses[0], 24).Masked(), addresses); err != nil {
		return err
	}
	if t.server, err = server.Serve(backendPort, measuringCPU); err != nil {
		return err
	}
	t.undo = append(t.undo, t.server.Stop)
	t.crews = nil
	for i, s := range all {
		c := &crew{subject: s}
		t.crews = append(t.crews, c)
		for j := range nodesEach {
			if s.start == nil && j > 0 {
				break // the direct way is timed from one node only
			}
			n, err := t.arena.AddNode(fmt.Sprintf("%s-%d", s.name, j), byte(1+i*nodesEach+j))
			if err != nil {
				return err
			}
			t.undo = append(t.undo, n.Close)
			if s.forget != nil {
				t.undo = append(t.undo, func() error { return s.forget(n) })
			}
			c.nodes = append(c.nodes, n)
			if err := t.world.AddNode(ctx, n.Name, n.IP); err != nil {
				return err
			}
			p, err := n.Caller(0)
			if err != nil {
				return err
			}
			t.undo = append(t.undo, p.Stop)
			c.probes = append(c.probes, p)
		}
		if c.timed, err = c.nodes[0].Caller(measuringCPU); err != nil {
			return err
		}
		t.undo = append(t.undo, c.timed.Stop)
	}
	return nil
}

// reshape gives the first Service n endpoints and waits until every crew's
// first node has them: by way of none, so that it shows.
func (t *theatre) reshape(ctx context.Context, n int) error {
	for _, c := range t.crews {
		if c.start != nil {
			if err := c.agents[0].Thaw(); err != nil {
				return err
			}
		}
	}
	for _, b := range [][]netip.AddrPort{nil, backends(n)} {
		if err := t.world.SetEndpoints(ctx, 0, b); err != nil {
			return err
		}
		for _, c := range t.crews {
			if c.start == nil {
				continue
			}
			if _, err := c.until(len(b) > 0, world.Address(0), c.probes[:1]); err != nil {
				return fmt.Errorf("%s: %d endpoints: %w", c.name, len(b), err)
			}
		}
	}
	for _, c := range t.crews {
		if c.start != nil {
			if err := c.agents[0].Freeze(); err != nil {
				return err
			}
		}
	}
	return nil
}

// until lets probes call an address until all get through, or none does, and
// returns when each one did, on the machine's monotonic clock.
func (c *crew) until(up bool, addr netip.AddrPort, probes []*arena.Process) ([]int64, error) {
	direction := "down"
	if up {
		direction = "up"
	}
	at := make([]int64, len(probes))
	var group errgroup.Group
	for i, p := range probes {
		group.Go(func() error {
			if _, err := p.Do("targets " + addr.String()); err != nil {
				return err
			}
			a, err := p.Do(fmt.Sprintf("until %s %d", direction, limit.Milliseconds()))
			at[i] = a.At
			return err
		})
	}
	return at, group.Wait()
}

func addresses(all []netip.AddrPort) string {
	var words []string
	for _, a := range all {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}
