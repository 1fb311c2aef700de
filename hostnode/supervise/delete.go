package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-k8s/skiff/hostnode/hostdns"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// Delete takes a cluster away, whole or half-made, with or without a living
// supervisor. ErrNotFound if there is no trace of it.
func Delete(ctx context.Context, name string) error {
	p, err := DefaultPaths()
	if err != nil {
		return err
	}
	unlock, err := p.lockCluster(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	p.sweepHostLock()
	if !p.traces(name) {
		return fmt.Errorf("cluster %q: %w", name, ErrNotFound)
	}
	if err := p.readable(name); err != nil {
		return err
	}
	if err := p.remove(ctx, name); err != nil {
		return fmt.Errorf("delete cluster %q: %w", name, err)
	}
	return nil
}

// traces says whether anything of the cluster is left on the host.
func (p Paths) traces(name string) bool {
	paths := []string{p.Cluster(name), p.aside(name), p.deleted(name), p.Run(name)}
	if layout, err := namespaces.Layout(); err == nil {
		for _, h := range layout {
			paths = append(paths, filepath.Join(h.Mount, cgroup(name)))
		}
	}
	return slices.ContainsFunc(paths, func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}) || hostdns.Has(p.hostDNSFiles(), name)
}

// remove finds everything of a cluster by its name. It succeeds when there is
// nothing.
//
//	published → taken back → taken down: supervisor dead (nobody restarts
//	anything) → processes dead, host's resolv.conf as before and network gone
//	→ run directory gone → cluster directory gone
func (p Paths) remove(ctx context.Context, name string) error {
	if err := p.takeBack(name); err != nil {
		return err
	}
	if err := p.takeDown(ctx, name); err != nil {
		return err
	}
	// The supervisor may have written to where the directory was, in its last
	// moments: certificates, which it keeps.
	if err := p.removeDirectories(p.aside(name), p.deleted(name), p.Cluster(name)); err != nil {
		return err
	}
	// Directories of skiff's own go when they are empty.
	for _, dir := range []string{p.clusters(), p.RunDir} {
		_ = os.Remove(dir)
	}
	return nil
}

// takeDown ends all that runs of a cluster and takes away what it has in the
// kernel and in the run directory; it succeeds when there is nothing. The
// watcher knows already that the cluster is not meant to run.
func (p Paths) takeDown(ctx context.Context, name string) error {
	layout, err := namespaces.Layout()
	if err != nil {
		return err
	}
	// The supervisor first, or it would start machines again.
	if err := layout.Remove(ctx, supervisorCgroup(name)); err != nil {
		return err
	}
	// Machines end while their cables go: a machine cannot mend the network,
	// and the host's unreachable routes are the last to go.
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return layout.Remove(both, cgroup(name)) })
	g.Go(func() error {
		// Before the network: no question goes where nobody is.
		if err := p.removeHostDNS(both, name); err != nil {
			return err
		}
		return p.removeNetwork(both, name)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := p.removeDevices(name); err != nil {
		return err
	}
	layout.RemoveEmpty(allClusters)
	if err := p.removeDirectories(p.Run(name)); err != nil {
		return err
	}
	_ = os.Remove(p.RunDir) // unless there is more in it
	return nil
}

// removeDirectories removes directories of a cluster. Those for every machine
// hold most of it.
func (p Paths) removeDirectories(dirs ...string) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, dir := range dirs {
		// Never delete through a mount.
		if err := unmountBelow(dir); err != nil {
			return err
		}
		machines, err := filepath.Glob(filepath.Join(dir, "machines", "*"))
		if err != nil {
			return err
		}
		for _, m := range machines {
			g.Go(func() error { return errors.Join(freeStorage(m), os.RemoveAll(m)) })
		}
	}
	err := g.Wait()
	for _, dir := range dirs {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("remove directory: %w", err)
	}
	return nil
}

// takeBack is the opposite of publishing: the watcher and the supervisor see
// that the cluster is no more.
func (p Paths) takeBack(name string) error {
	err := os.Rename(p.Cluster(name), p.deleted(name))
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrExist):
		// An earlier delete was interrupted, and a new cluster made since.
		if err := unmountBelow(p.deleted(name)); err != nil {
			return err
		}
		if err := os.RemoveAll(p.deleted(name)); err != nil {
			return fmt.Errorf("remove directory: %w", err)
		}
		return os.Rename(p.Cluster(name), p.deleted(name))
	}
	return fmt.Errorf("take back cluster directory: %w", err)
}

// removeNetwork needs the record, for the ranges; without one there was never
// a network.
func (p Paths) removeNetwork(ctx context.Context, name string) error {
	for _, dir := range []string{p.Cluster(name), p.deleted(name), p.aside(name)} {
		rec, err := readRecordAt(filepath.Join(dir, "cluster.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		f, err := p.newFabric(rec)
		if err != nil {
			return err
		}
		// The switch's programs go with its device, their pins with the file
		// system in the run directory.
		if err := f.Remove(ctx); err != nil {
			return fmt.Errorf("remove network: %w", err)
		}
	}
	return nil
}

// Names lists the clusters that Delete would find, half-made ones included.
func Names(context.Context) ([]string, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p.clusters())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, clusterOf(e.Name()))
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// clusterOf is the cluster that a directory is of, see Paths.aside.
func clusterOf(dir string) string {
	name := strings.TrimPrefix(dir, ".")
	if name == dir {
		return dir
	}
	return strings.TrimSuffix(strings.TrimSuffix(name, ".new"), ".deleted")
}
