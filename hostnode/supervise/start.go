package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

// StartOptions of Start and Restart.
type StartOptions struct {
	// Retain keeps what runs when the start fails, for looking at it.
	Retain bool
	// Within is how long the API server may take, if more than two minutes.
	Within time.Duration
	// Progress is called for each event, from one goroutine at a time.
	Progress func(Event)
}

// Start brings a cluster back as it was, after a stop, the death of all its
// processes or a reboot of the host, and returns when its machines run and
// the API server is ready. A cluster that runs is fine. When Start fails or
// ctx ends, the cluster is stopped again unless Retain.
func Start(ctx context.Context, name string, opts StartOptions) (*Info, error) {
	p, rec, unlock, err := lockedRecord(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return p.start(ctx, rec, opts)
}

// Restart is Stop and Start, without letting another command in between.
func Restart(ctx context.Context, name string, stop StopOptions, start StartOptions) (*Info, error) {
	p, rec, unlock, err := lockedRecord(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := p.stop(ctx, rec, stop); err != nil {
		return nil, err
	}
	return p.start(ctx, rec, start)
}

func (p Paths) start(ctx context.Context, rec *record, opts StartOptions) (info *Info, err error) {
	name := rec.Cluster.Name
	progress := opts.Progress
	if progress == nil {
		progress = func(Event) {}
	}
	if p.meantToRun(name) == nil {
		if p.describe(rec).State == Paused {
			return nil, fmt.Errorf("cluster %q: %w", name, ErrPaused)
		}
		// A control plane that cannot serve tries again only now and then; what
		// it was in trouble with may be mended.
		stuck := p.outvoted(rec) != nil
		if !stuck && p.supervised(name) {
			// Perhaps since a moment ago, by a start that was killed.
			if err := p.waitMachines(ctx, rec, opts.Within); err != nil {
				return nil, err
			}
			return p.describe(rec), p.waitReady(ctx, rec, opts.Within)
		}
		if !stuck && p.alive(rec) {
			// Only the supervision died: the machines are found again.
			if err := p.bringUp(ctx, rec, nil, opts.Within, progress); err != nil {
				return nil, p.blame(err, name)
			}
			return p.describe(rec), nil
		}
	}
	end := begin(progress, StepCheck)
	// Of a stop or start that was killed, or of a life before all processes
	// died: the supervisor makes everything anew.
	err = p.takeDown(ctx, name)
	if err == nil {
		err = p.startable(rec)
	}
	if err := end(err); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && !opts.Retain {
			// The caller's ctx may be what has ended.
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
			defer cancel()
			if undoErr := p.stop(undo, rec, StopOptions{Now: true}); undoErr != nil {
				err = errors.Join(err, fmt.Errorf("undo: %w", undoErr))
			}
		}
	}()
	end = begin(progress, StepBuild)
	sockets, err := p.prepareStart(ctx, rec)
	if err := end(err); err != nil {
		return nil, err
	}
	if err := p.bringUp(ctx, rec, sockets, opts.Within, progress); err != nil {
		return nil, p.blame(err, name)
	}
	return p.describe(rec), nil
}

// startable finds out whether the host still has what the cluster needs.
func (p Paths) startable(rec *record) error {
	c := &rec.Cluster
	if err := p.usable(c); err != nil {
		return err
	}
	if err := errors.Join(checkMounts(c)...); err != nil {
		return err
	}
	if err := p.verify(rec); err != nil {
		return err
	}
	want, err := rangesOf(c.Networking)
	if err != nil {
		return err
	}
	taken, err := p.rangesInUse(c.Name)
	if err != nil {
		return err
	}
	if err := fabric.Conflicts(want, taken); err != nil {
		return &Refusal{Err: err, Help: "the cluster keeps its ranges, and the host got a route into one of them while it was stopped: `ip route` shows it; take it away, then start the cluster"}
	}
	return nil
}

// prepareStart opens the cluster's sockets, and brings up to date what a
// create writes once: the host may have changed, certificates grown old.
func (p Paths) prepareStart(ctx context.Context, rec *record) (sockets map[string]*os.File, err error) {
	h, err := readHost(p)
	if err != nil {
		return nil, err
	}
	dir := p.Cluster(rec.Cluster.Name)
	if sockets, err = openSockets(ctx, rec, openKept); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeAll(sockets)
		}
	}()
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return p.lay(both, rec) })
	g.Go(func() error {
		for i, m := range rec.Machines {
			if err := writeConfigurations(dir, rec, i, h); err != nil {
				return fmt.Errorf("machine %s: %w", m.Name, err)
			}
		}
		if err := ensureCredentials(dir, rec); err != nil {
			return fmt.Errorf("renew certificates: %w", err)
		}
		return nil
	})
	g.Go(func() error { return errors.Join(p.forget(rec), p.unseal(rec)) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return sockets, p.want(rec.Cluster.Name)
}

// RestartAlways names the clusters that the host starts when it boots.
func RestartAlways(context.Context) ([]string, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	records, err := p.published()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, rec := range records {
		if rec.Cluster.Restart == cluster.RestartAlways {
			names = append(names, rec.Cluster.Name)
		}
	}
	return names, nil
}
