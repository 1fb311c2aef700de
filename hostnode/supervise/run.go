package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/lb/switchnat"
	"github.com/skiff-k8s/skiff/hostnode/handover"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
	"github.com/skiff-k8s/skiff/hostnode/namespaces/pid1"
	"github.com/skiff-k8s/skiff/hostnode/settle"
)

// room is a running supervisor.
type room struct {
	paths    Paths
	rec      *record
	host     host
	fabric   *fabric.Fabric
	log      *slog.Logger
	machines []*roomMachine
	// opening guards the sockets of all machines while they are opened.
	opening sync.Mutex
	events  *eventWriter
	// preparing guards the machines' directories while they are made.
	preparing sync.Mutex
	// again says that no create waits: the cluster is there, and so should be
	// all that a create does after the machines run.
	again bool
	// renewed is RunOptions.Renewed.
	renewed func(ctx context.Context, raw []byte, files []string) error
}

// RunOptions of Run.
type RunOptions struct {
	// Renewed is called with a new admin's kubeconfig, and the files of users
	// that have an older one: see RememberKubeconfig.
	Renewed func(ctx context.Context, raw []byte, files []string) error
}

// Run is the supervisor of a published cluster. It blocks until ctx ends and
// leaves the machines running then: its successor finds them. It logs to
// standard error.
func Run(ctx context.Context, name string, opts RunOptions) error {
	p, err := DefaultPaths()
	if err != nil {
		return err
	}
	r, release, err := openRoom(p, name)
	if err != nil {
		return err
	}
	defer release()
	r.renewed = opts.Renewed
	if err := r.run(ctx); err != nil && ctx.Err() == nil {
		r.events.send(Event{Step: StepMachines, Error: err.Error()})
		return err
	}
	return nil
}

func openRoom(p Paths, name string) (r *room, release func(), err error) {
	rec, err := p.readRecord(name)
	if err != nil {
		return nil, nil, err
	}
	r = &room{paths: p, rec: rec, log: slog.New(slog.NewTextHandler(os.Stderr, nil)).With("cluster", name), events: inheritedEvents()}
	for _, dir := range []string{p.Run(name), p.root(name)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, nil, fmt.Errorf("make run directory: %w", err)
		}
	}
	if err := p.makePulled(name); err != nil {
		return nil, nil, err
	}
	// One supervisor a cluster, whatever its state file says.
	one, err := os.OpenFile(p.Run(name), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open run directory: %w", err)
	}
	if err := unix.Flock(int(one.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		one.Close()
		return nil, nil, fmt.Errorf("cluster %q has a supervisor already: %w", name, err)
	}
	release = func() { one.Close() }
	if err := r.init(name); err != nil {
		release()
		return nil, nil, err
	}
	return r, release, nil
}

func (r *room) init(name string) error {
	self, err := namespaces.Find(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer self.Close()
	if err := writeProcess(r.paths.supervisorState(name), self, nil); err != nil {
		return fmt.Errorf("write supervisor's process id: %w", err)
	}
	if r.host, err = readHost(r.paths); err != nil {
		return err
	}
	if r.fabric, err = r.paths.newFabric(r.rec); err != nil {
		return err
	}
	r.again = r.events.to == nil
	if r.again {
		if err := ensureCredentials(r.paths.Cluster(name), r.rec); err != nil {
			return fmt.Errorf("renew certificates: %w", err)
		}
	}
	if err := rotateLog(r.paths.SupervisorLog(name)); err != nil {
		return err
	}
	given, err := handover.Files(os.Getenv(envSockets))
	if err != nil {
		return err
	}
	for i, m := range r.rec.Machines {
		plan, err := planMachine(r.rec, i, r.host)
		if err != nil {
			return fmt.Errorf("plan machine %s: %w", m.Name, err)
		}
		rm := &roomMachine{room: r, name: m.Name, plan: plan, sockets: map[string]*os.File{}}
		for key, f := range given {
			if name, ok := strings.CutPrefix(key, m.Name+"/"); ok {
				rm.sockets[name] = f
			}
		}
		r.machines = append(r.machines, rm)
	}
	return nil
}

// run wires the network, starts the machines and watches until ctx ends.
func (r *room) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.serveControl(ctx) })
	g.Go(func() error { return r.watchWatcher(ctx) })
	g.Go(func() error { return r.servePulled(ctx) })
	g.Go(func() error { return r.watchControlPlanes(ctx) })
	g.Go(func() error { return r.runMachines(ctx, g) })
	g.Go(func() error { return r.renewal().run(ctx) })
	return g.Wait()
}

func (r *room) renewal() renewal {
	return renewal{dir: r.paths.Cluster(r.rec.Cluster.Name), rec: r.rec, clock: clock.RealClock{}, log: r.log, renewed: r.renewed}
}

// runMachines does as much at once as it can: cgroups beside the switch, each
// machine as soon as its own cable is there, the switch's programs meanwhile.
func (r *room) runMachines(ctx context.Context, g *errgroup.Group) error {
	start := time.Now()
	r.events.send(Event{Step: StepNetwork})
	r.events.send(Event{Step: StepMachines})
	if err := r.prepare(ctx); err != nil {
		return err
	}
	// All of them before any is started, which may need a socket of theirs.
	for _, m := range r.machines {
		if err := m.adopt(); err != nil {
			return err
		}
	}
	var cables, up sync.WaitGroup
	cables.Add(len(r.machines))
	up.Add(len(r.machines) + 1)
	g.Go(func() error {
		// The control plane's node process opens the maps: it takes longer to
		// get there, and is started again if not.
		err := switchnat.Load(r.paths.switchConfig(r.rec.Cluster.Name, r.fabric))
		if err != nil {
			return fmt.Errorf("program switch: %w", err)
		}
		up.Done()
		// What pods may send beyond the host follows its settings.
		return r.fabric.Run(ctx)
	})
	for _, m := range r.machines {
		g.Go(func() error {
			if err := r.fabric.EnsureNode(ctx, m.name); err != nil {
				return err
			}
			cables.Done()
			return m.run(ctx, sync.OnceFunc(up.Done))
		})
	}
	if err := await(ctx, &cables); err != nil {
		return err
	}
	r.events.send(Event{Step: StepNetwork, Done: true, Took: time.Since(start), Note: r.fabric.EgressHint()})
	if err := await(ctx, &up); err != nil {
		return err
	}
	r.log.Info("machines run", "after", time.Since(start))
	r.events.send(Event{Step: StepMachines, Done: true, Took: time.Since(start)})
	r.events.close()
	if r.again && r.rec.Cluster.Networking.HostDNS {
		if err := r.paths.ensureHostDNS(ctx, r.rec); err != nil {
			r.log.Warn("the cluster's names do not resolve on the host", "error", err)
		}
	}
	if err := settle.Memory(); err != nil {
		r.log.Warn("memory of the start kept", "error", err)
	}
	return nil
}

// await waits for wg, or for the end of ctx: then somebody else has the error
// and will never be done.
func await(ctx context.Context, wg *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// prepare makes what machines need: their cgroups, the switch, and the file
// system for its programs.
func (r *room) prepare(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range r.machines {
		g.Go(m.ensureCgroup)
	}
	g.Go(func() error {
		if err := r.fabric.EnsureSwitch(ctx); err != nil {
			return fmt.Errorf("make switch: %w", err)
		}
		return nil
	})
	g.Go(func() error { return ensureBPFFS(r.paths.switchBPF(r.rec.Cluster.Name)) })
	return g.Wait()
}

// ensureBPFFS mounts a bpf file system of the cluster's own.
func ensureBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", dir, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", dir, err)
	}
	return nil
}

// watchWatcher keeps a watcher alive, as it keeps us alive.
func (r *room) watchWatcher(ctx context.Context) error {
	name := r.rec.Cluster.Name
	var backoff pid1.Backoff
	for {
		watcher, _, err := findProcess(r.paths.watcherState(name))
		if errors.Is(err, namespaces.ErrGone) {
			watcher, err = r.paths.watch(name, os.Getpid())
		}
		if err != nil {
			return err
		}
		started := time.Now()
		err = watcher.Wait(ctx)
		watcher.Close()
		if err != nil {
			return err
		}
		delay := backoff.After(time.Since(started))
		r.log.Warn("watcher ended", "again", delay)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

// rotateLog keeps a log small that only grows when something restarts.
func rotateLog(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	defer f.Close()
	return pid1.Rotate(f)
}

// eventWriter sends progress to the create that started this supervisor; a
// supervisor that was started otherwise has nobody to tell.
type eventWriter struct {
	mu sync.Mutex // guards the fields below
	to *os.File
}

func inheritedEvents() *eventWriter {
	if os.Getenv(envEvents) == "" {
		return &eventWriter{}
	}
	unix.CloseOnExec(3)
	return &eventWriter{to: os.NewFile(3, "events")}
}

func (w *eventWriter) send(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.to == nil {
		return
	}
	data, err := json.Marshal(e)
	if err == nil {
		_, err = w.to.Write(append(data, '\n'))
	}
	if err != nil { // the create is gone; the cluster is published, so go on
		w.to.Close()
		w.to = nil
	}
}

func (w *eventWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.to != nil {
		w.to.Close()
		w.to = nil
	}
}
