package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/utils/clock"

	"github.com/skiff-k8s/skiff/hostnode/pki"
)

const (
	// recheck is the longest that certificates are left alone: a host that
	// slept, or whose clock jumped, has a timer that is late.
	recheck = time.Hour
	// retryRenewal is between two tries, and the shortest time to the next
	// renewal: near the end of an authority, each life is shorter than the
	// last.
	retryRenewal = time.Minute
)

// renewal keeps the certificates of a cluster younger than two thirds of their
// lives. Whoever uses them reads the files again when they change: API server,
// kubelets and clients all by upstream's own means.
type renewal struct {
	dir   string
	rec   *record
	clock clock.Clock
	log   *slog.Logger
	// renewed is called with the admin's kubeconfig when that has changed, and
	// with the user's files that have been told of.
	renewed func(ctx context.Context, raw []byte, files []string) error
}

// run renews until ctx ends.
func (r renewal) run(ctx context.Context) error {
	changes, err := r.watch()
	if err != nil {
		// The clock alone will do.
		r.log.Warn("certificates are not watched", "error", err)
		changes = &fsnotify.Watcher{}
	} else {
		defer changes.Close()
	}
	for {
		timer := r.clock.NewTimer(r.step(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C():
		case <-changes.Events: // of others, and our own, after which nothing is to do
		case err := <-changes.Errors:
			r.log.Warn("watching certificates", "error", err)
		}
		timer.Stop()
	}
}

// step makes what is due, and returns how long nothing else will be.
func (r renewal) step(ctx context.Context) time.Duration {
	if err := r.renew(ctx); err != nil {
		r.log.Error("certificates are not renewed", "error", err, "again", retryRenewal)
		return retryRenewal
	}
	cfg, err := pkiConfig(r.dir, r.rec)
	if err != nil {
		return recheck
	}
	due, err := pki.Due(cfg)
	if err != nil {
		r.log.Error("certificates cannot be read", "error", err)
		return retryRenewal
	}
	return min(max(due.Sub(r.clock.Now()), retryRenewal), recheck)
}

// renew mends the certificates. The kubeconfig follows, here and in the
// user's files.
func (r renewal) renew(ctx context.Context) error {
	path := filepath.Join(r.dir, "kubeconfig")
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := ensureCredentialsAt(r.dir, r.rec, r.clock.Now()); err != nil {
		return err
	}
	after, err := os.ReadFile(path)
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	r.log.Info("certificates renewed")
	if r.renewed == nil {
		return nil
	}
	files, err := readKubeconfigs(r.dir)
	if err != nil {
		return err
	}
	if err := r.renewed(ctx, after, files); err != nil {
		// Not ours to mend: `skiff export kubeconfig` does.
		r.log.Warn("the user's kubeconfig has the old certificate", "error", err)
	}
	return nil
}

// watch looks at the directories of all certificates.
func (r renewal) watch() (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	cfg, err := pkiConfig(r.dir, r.rec)
	if err == nil {
		for _, dir := range cfg.Dirs() {
			err = errors.Join(err, w.Add(dir))
		}
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// kubeconfigsFile lists the files of users that have the cluster's context.
const kubeconfigsFile = "kubeconfigs.json"

func readKubeconfigs(dir string) (files []string, err error) {
	data, err := os.ReadFile(filepath.Join(dir, kubeconfigsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &files)
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of kubeconfig files: %w", err)
	}
	return files, nil
}

// RememberKubeconfig says that a file of the user's has the cluster's context:
// it gets new certificates when the cluster does.
func RememberKubeconfig(ctx context.Context, name, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	p, err := DefaultPaths()
	if err != nil {
		return err
	}
	// Not the cluster's lock: a stop may have that for a while.
	unlock, err := lock(ctx, filepath.Join(p.RunDir, "."+name+".kubeconfigs.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := p.readRecord(name); err != nil {
		return err
	}
	files, err := readKubeconfigs(p.Cluster(name))
	if err != nil {
		return err
	}
	if slices.Contains(files, file) {
		return nil
	}
	// Those that are gone need nothing.
	files = slices.DeleteFunc(files, func(f string) bool { return !exists(f) })
	return writeJSON(filepath.Join(p.Cluster(name), kubeconfigsFile), append(files, file))
}

// Kubeconfigs are the files that RememberKubeconfig was told of.
func Kubeconfigs(name string) ([]string, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	return readKubeconfigs(p.Cluster(name))
}
