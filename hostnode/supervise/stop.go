package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// orderlyBound is how long the machines of one role may take to end
// themselves: process 1 gives up a little earlier.
const orderlyBound = 50 * time.Second

// StopOptions of Stop and Restart.
type StopOptions struct {
	// Now pulls the plug of the machines: pods have no time to end.
	Now bool
	// Progress is called for each event, from one goroutine at a time.
	Progress func(Event)
}

// Stop ends everything of a cluster and takes it away, but for the cluster's
// directory: Start brings the same cluster back. A cluster that does not run
// is fine. One whose stop or start was killed is stopped whole.
//
//	running → not wanted (nobody restarts anything) → supervisor dead →
//	workers' pods, then the control plane's, then etcd ended → taken down →
//	sealed → on disk
func Stop(ctx context.Context, name string, opts StopOptions) error {
	p, rec, unlock, err := lockedRecord(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return p.stop(ctx, rec, opts)
}

func (p Paths) stop(ctx context.Context, rec *record, opts StopOptions) error {
	name := rec.Cluster.Name
	progress := opts.Progress
	if progress == nil {
		progress = func(Event) {}
	}
	if err := os.Remove(p.wanted(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stop cluster %q: %w", name, err)
	}
	layout, err := namespaces.Layout()
	if err != nil {
		return err
	}
	// The supervisor first, or it would start machines again.
	if err := layout.Remove(ctx, supervisorCgroup(name)); err != nil {
		return err
	}
	if !opts.Now {
		end := begin(progress, StepPods)
		if err := end(p.endMachines(ctx, rec, layout)); err != nil {
			return err
		}
	}
	end := begin(progress, StepDown)
	err = p.takeDown(ctx, name)
	if err == nil {
		err = p.seal(rec)
	}
	if err == nil {
		// What ephemeral durability left to the kernel, once.
		err = syncFS(p.Cluster(name))
	}
	return end(err)
}

// endMachines asks the machines to stop, workers first: their pods may still
// need the API server. What does not stop in time is left to takeDown.
func (p Paths) endMachines(ctx context.Context, rec *record, layout namespaces.Hierarchies) error {
	for _, role := range []cluster.Role{cluster.WorkerRole, cluster.ControlPlaneRole} {
		var g errgroup.Group
		for _, m := range rec.Machines {
			if m.Role == role {
				g.Go(func() error { return p.endMachine(ctx, rec.Cluster.Name, m.Name, layout) })
			}
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

func (p Paths) endMachine(ctx context.Context, name, machine string, layout namespaces.Hierarchies) error {
	proc, _, err := findProcess(p.machineState(name, machine))
	if errors.Is(err, namespaces.ErrGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop machine %s: %w", machine, err)
	}
	defer proc.Close()
	bounded, cancel := context.WithTimeout(ctx, orderlyBound)
	defer cancel()
	if path := machineCgroup(name, machine); layout.Frozen(path) {
		if err := layout.Freeze(bounded, path, false); err != nil {
			return fmt.Errorf("stop machine %s: %w", machine, err)
		}
	}
	if err := proc.Signal(unix.SIGTERM); err != nil && !errors.Is(err, namespaces.ErrGone) {
		return fmt.Errorf("stop machine %s: %w", machine, err)
	}
	if err := proc.Wait(bounded); err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

// syncFS writes the file system that dir is on to the disk: databases, and
// what pods wrote to their volumes.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write %s to disk: %w", dir, err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("write %s to disk: %w", dir, err)
	}
	return nil
}

// alive says whether any machine of the cluster runs.
func (p Paths) alive(rec *record) bool {
	return slices.ContainsFunc(rec.Machines, func(m machineRecord) bool { return p.runs(rec.Cluster.Name, m.Name) })
}

// runs says whether a machine does.
func (p Paths) runs(cluster, name string) bool {
	proc, _, err := findProcess(p.machineState(cluster, name))
	if err != nil {
		return false
	}
	proc.Close()
	return true
}

// want says that the cluster is meant to run.
func (p Paths) want(name string) error {
	if err := writeFile(p.wanted(name), nil); err != nil {
		return fmt.Errorf("mark %s as running: %w", filepath.Base(p.Cluster(name)), err)
	}
	return nil
}
