package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// freezeBound is how long the kernel may take to bring all processes of a
// machine to a stand: a hundred times the usual.
const freezeBound = 10 * time.Second

// Pause stops every process of every machine where it is. A paused cluster is
// fine.
func Pause(ctx context.Context, name string) error { return freeze(ctx, name, true) }

// Unpause lets them go on. A cluster that is not paused is fine.
func Unpause(ctx context.Context, name string) error { return freeze(ctx, name, false) }

func freeze(ctx context.Context, name string, frozen bool) error {
	p, rec, unlock, err := lockedRecord(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if !p.alive(rec) {
		return fmt.Errorf("cluster %q: %w", name, ErrStopped)
	}
	layout, err := namespaces.Layout()
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, freezeBound)
	defer cancel()
	g, all := errgroup.WithContext(bounded)
	for _, m := range rec.Machines {
		g.Go(func() error {
			err := layout.Freeze(all, machineCgroup(name, m.Name), frozen)
			if !frozen && errors.Is(err, fs.ErrNotExist) {
				return nil // one that died is just being made anew
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		if frozen {
			// Half a pause is none.
			err = errors.Join(err, p.thaw(context.WithoutCancel(ctx), rec, layout))
		}
		return err
	}
	return nil
}

func (p Paths) thaw(ctx context.Context, rec *record, layout namespaces.Hierarchies) error {
	ctx, cancel := context.WithTimeout(ctx, freezeBound)
	defer cancel()
	var errs []error
	for _, m := range rec.Machines {
		if path := machineCgroup(rec.Cluster.Name, m.Name); layout.Frozen(path) {
			errs = append(errs, layout.Freeze(ctx, path, false))
		}
	}
	return errors.Join(errs...)
}
