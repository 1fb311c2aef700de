package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"

	"github.com/skiff-k8s/skiff/dataplane/lb/nodenat"
	"github.com/skiff-k8s/skiff/dataplane/lb/switchnat"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// Config is what a Loader needs.
type Config struct {
	// NodeName is this node's name, NodeIPs its addresses on the fabric, the
	// primary one first. A family without an address has no node ports here.
	NodeName string
	NodeIPs  []netip.Addr
	// CgroupPath is the cgroup2 directory whose sockets are translated.
	// Default: the root of this cgroup namespace.
	CgroupPath string
	// PinDir is a directory of a bpf file system for this Loader alone; it is
	// made. With an empty PinDir programs and maps go with the process.
	PinDir string
	// Uplink is the node's device that leads to the switch, in this network
	// namespace, for host ports. Default: the device that has NodeIPs[0]; without
	// one host ports answer to sockets of the node and its pods only.
	Uplink string
	// ForeignPods says that nobody tells of new pods by PodConnected.
	ForeignPods bool
	// SwitchPinDir is where switchnat.Load pinned the maps of the cluster's
	// switch, on the one node that writes them; empty on the others. That
	// node also is the one that reports on Services by Events.
	SwitchPinDir string
	// SwitchShared says that other Loaders have the same SwitchPinDir. One of
	// them at a time writes the maps, the next one when that has ended.
	SwitchShared bool
	// HealthzAddress and MetricsAddress are where the Loader answers while it
	// runs, as upstream's proxy; empty: nowhere.
	HealthzAddress, MetricsAddress string
	// Collectors are what /metrics shows beside the Loader's own.
	Collectors []metrics.StableCollector
	// Client may list and watch Services, EndpointSlices and Nodes, and
	// create Events, as upstream's ClusterRole system:node-proxier allows.
	Client kubernetes.Interface
	// Log; default slog.Default().
	Log *slog.Logger
}

// retryAfter is how long a Service waits whose maps could not be written: a
// full map has room again when something else has gone.
const retryAfter = time.Second

// healthTimeout is how late a change may be in the maps before /healthz says
// so: twice upstream's sync period, as there.
const healthTimeout = time.Minute

// Loader keeps the service maps of one node, and those of the cluster's
// switch if it is the node that writes them.
type Loader struct {
	cfg     Config
	log     *slog.Logger
	sockets *sockets
	feed    *feed
	report  *reporter
	health  *health
	// proxyHealth says whether changes reach the maps.
	proxyHealth *healthcheck.ProxyHealthServer
	meters      *meters
	departures  *departures
	stale       *stale

	// mu guards the targets' tables and claims, hostPorts and packets.
	mu sync.Mutex
	// targets are the node's maps, and the switch's on the node that writes
	// them.
	targets   []*target
	hostPorts hostPorts
	// packets is nil until there is something of SCTP to serve, and does not
	// change from when packetsServed is closed.
	packets       *nodenat.NAT
	packetsServed chan struct{}

	// attached says that the programs are at the cgroup.
	attached bool
	// turn is ours while we write the switch's maps, if others could.
	turn turn
	// synced is closed when the maps hold what the API server told first.
	synced chan struct{}
}

// target is one set of maps and from where they are seen.
type target struct {
	name   string
	node   string // of the view
	table  *table.Table
	claims *claims
	// flows is nil where packets are not translated: of the node's own maps.
	flows *switchnat.Flows
	// filled says that the maps hold nothing but what was planned here.
	filled bool
}

// openTranslated opens the maps of a program that translates packets.
func openTranslated(name, pins string) (*target, error) {
	t, err := table.Open(pins)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	flows, err := switchnat.OpenFlows(pins)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), t.Close())
	}
	return &target{name: name, table: t, claims: newClaims(), flows: flows}, nil
}

func (t *target) close() error { return errors.Join(t.table.Close(), t.flows.Close()) }

// New loads the programs and, if there is nothing pinned to take over,
// attaches them. The caller is in the node's network namespace. Run keeps the
// maps; Close lets go.
func New(cfg Config) (_ *Loader, err error) {
	if cfg.NodeName == "" || len(cfg.NodeIPs) == 0 || cfg.Client == nil {
		return nil, fmt.Errorf("dataplane loader: node name, node addresses and client are required")
	}
	if cfg.CgroupPath == "" {
		if cfg.CgroupPath, err = CgroupRoot(); err != nil {
			return nil, err
		}
	}
	if cfg.Uplink == "" {
		if cfg.Uplink, err = deviceOf(cfg.NodeIPs[0]); err != nil {
			return nil, err
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.PinDir != "" {
		if err := os.MkdirAll(cfg.PinDir, 0o700); err != nil {
			return nil, fmt.Errorf("make pin directory: %w", err)
		}
	}
	l := &Loader{cfg: cfg, log: cfg.Log, feed: newFeed(cfg.Client, cfg.NodeName), synced: make(chan struct{}), packetsServed: make(chan struct{})}
	l.feed.reports = cfg.SwitchPinDir != ""
	l.hostPorts.frontends = map[table.Key]table.Frontend{}
	l.proxyHealth = healthcheck.NewProxyHealthServer("", healthTimeout, l.feed)
	l.meters = newMeters(l)
	l.departures = newDepartures()
	l.health = newHealth(cfg.NodeName, cfg.NodeIPs, l.proxyHealth)
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	nodeTable, err := table.Create(cfg.PinDir)
	if err != nil {
		return nil, err
	}
	l.targets = append(l.targets, &target{name: "node", node: cfg.NodeName, table: nodeTable, claims: newClaims()})
	netns, err := netnsCookie()
	if err != nil {
		return nil, err
	}
	if err := l.forgetDead(netns); err != nil {
		return nil, err
	}
	if err := nodeTable.SetIdentity(netns, identityOf(cfg.NodeIPs)); err != nil {
		return nil, err
	}
	if l.sockets, err = loadSockets(nodeTable, netns, cfg.CgroupPath, cfg.PinDir, familiesOf(cfg.NodeIPs)); err != nil {
		return nil, err
	}
	l.stale = &stale{peers: l.sockets.objects.LbPeers, log: l.log}
	// Programs of another layout go on with their own maps until these ones
	// are filled.
	if nodeTable.Reused() || !l.sockets.attached() {
		if err := l.attach(); err != nil {
			return nil, err
		}
	}
	if cfg.SwitchPinDir != "" && !cfg.SwitchShared {
		if err := l.openSwitch(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// openSwitch makes the switch's maps a target.
func (l *Loader) openSwitch() error {
	sw, err := openTranslated("switch", l.cfg.SwitchPinDir)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.targets = append(l.targets, sw)
	return nil
}

func (l *Loader) attach() error {
	if l.attached {
		return nil
	}
	if err := l.sockets.attach(); err != nil {
		return err
	}
	l.attached = true
	return nil
}

// Close lets go of programs and maps. What is pinned stays in force; see
// Unpin.
func (l *Loader) Close() error {
	var errs []error
	if l.sockets != nil {
		errs = append(errs, l.sockets.close())
	}
	for _, t := range l.targets {
		errs = append(errs, t.close())
	}
	if l.hostPorts.uplink != nil {
		errs = append(errs, l.hostPorts.uplink.close())
	}
	if l.packets != nil {
		errs = append(errs, l.packets.Close())
	}
	if l.stale != nil {
		errs = append(errs, l.stale.close())
	}
	return errors.Join(errs...)
}

// Synced is closed once the maps hold what the API server told first.
func (l *Loader) Synced() <-chan struct{} { return l.synced }

// Run keeps the maps equal to the API server's objects until ctx ends. An API
// server that is away changes nothing: the maps stay as they are.
func (l *Loader) Run(ctx context.Context) (err error) {
	servers := l.serve()
	defer func() { err = errors.Join(err, stop(servers), l.health.close()) }()
	if l.cfg.SwitchPinDir != "" && !l.cfg.SwitchShared {
		l.report = newReporter(ctx, l.cfg.Client)
	}
	defer func() { l.report.close() }()
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { l.feed.run(ctx) })
	beside.Go(func() { l.tidy(ctx.Done()) })
	if l.cfg.ForeignPods {
		beside.Go(func() { l.followDevices(ctx) })
	}
	var turn chan error
	if l.cfg.SwitchShared {
		turn = make(chan error, 1)
		beside.Go(func() { turn <- l.turn.await(ctx, l.cfg.SwitchPinDir) })
		defer l.turn.end()
	}
	defer func() {
		cancel()
		beside.Wait()
	}()

	var retry <-chan time.Time
	failed := map[*known]struct{}{}
	for first := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-retry:
			retry = nil
			l.feed.touch(slices.Collect(maps.Keys(failed))...)
			clear(failed)
			continue
		case err := <-turn:
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = l.openSwitch()
			}
			if err != nil {
				return err
			}
			l.report = newReporter(ctx, l.cfg.Client)
			l.feed.touchAll()
			continue
		case <-l.feed.wake:
		}
		c, ok := l.feed.take()
		if !ok {
			continue
		}
		for _, a := range l.cfg.NodeIPs {
			l.proxyHealth.QueuedUpdate(familyOf(a))
		}
		unwritten := l.apply(c)
		l.meters.programmed(c.since)
		l.meters.unwritten.Set(float64(len(unwritten)))
		if len(unwritten) == 0 {
			for _, a := range l.cfg.NodeIPs {
				l.proxyHealth.Updated(familyOf(a))
			}
		}
		for k, err := range unwritten {
			l.log.Error("service not programmed", "service", k.name, "err", err)
			l.report.failed(k.name, l.feed.serviceOf(k), err)
			failed[k] = struct{}{}
		}
		if len(failed) > 0 && retry == nil {
			retry = time.After(retryAfter)
		}
		if first {
			first = false
			if err := l.attach(); err != nil {
				return err
			}
			close(l.synced)
			if l.feed.large() {
				// A forced collection, beside what comes next.
				beside.Go(debug.FreeOSMemory)
			}
		}
	}
}
