package supervise

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/dataplane/features"
)

const (
	// readyBound is how long an API server may always take: hundreds of times
	// the usual, for machines that do something else too.
	readyBound = 2 * time.Minute
	// readyRetry is between two looks at a machine that does not run yet, and
	// two questions to an API server that is not ready yet: upstream's checks
	// have no event for clients without credentials.
	readyRetry = 5 * time.Millisecond
	// undoBound is how long the rollback of a failed create may take.
	undoBound = 30 * time.Second
)

// CreateOptions of Create.
type CreateOptions struct {
	// Cluster is defaulted and valid. Subnets that are empty become the
	// default ones or the next that are free on this host; ports that are 0
	// become free ones.
	Cluster *cluster.Cluster
	// Verbosity of the cluster's own programs, as klog counts it; it is kept
	// with the cluster.
	Verbosity int
	// Retain keeps what is there when the create fails or is interrupted.
	Retain bool
	// Within is how long the API server may take, if more than two minutes.
	Within time.Duration
	// Progress is called for each event, from one goroutine at a time.
	Progress func(Event)
}

// Create makes the cluster and returns when its machines run and the API
// server is ready. When it fails or ctx ends, all is undone unless Retain.
func Create(ctx context.Context, opts CreateOptions) (info *Info, err error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	c, err := clone(opts.Cluster)
	if err != nil {
		return nil, err
	}
	unlock, err := p.lockCluster(ctx, c.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return p.create(ctx, c, nil, opts)
}

// create makes the cluster c, which is its own. from is the snapshot that it
// is made of, nil if it begins empty.
func (p Paths) create(ctx context.Context, c *cluster.Cluster, from *origin, opts CreateOptions) (info *Info, err error) {
	progress := opts.Progress
	if progress == nil {
		progress = func(Event) {}
	}
	end := begin(progress, StepCheck)
	err = p.readable(c.Name)
	if err == nil {
		err = p.preflight(c)
	}
	if err == nil {
		err = p.checkHostDNS(ctx, c)
	}
	if missing := features.Policies(); err == nil && missing != nil {
		progress(Event{Step: StepCheck, Note: missing.Error()})
	}
	if err == nil && p.traces(c.Name) {
		// Of a create or delete that was killed.
		err = p.remove(ctx, c.Name)
	}
	if err := end(err); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && !opts.Retain {
			// The caller's ctx may be what has ended.
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
			defer cancel()
			if undoErr := p.remove(undo, c.Name); undoErr != nil {
				err = errors.Join(err, fmt.Errorf("undo: %w", undoErr))
			}
		}
	}()
	end = begin(progress, StepBuild)
	rec, sockets, err := p.make(ctx, c, from, opts.Verbosity)
	defer closeAll(sockets)
	if err := end(err); err != nil {
		return nil, err
	}
	for _, note := range from.changes(rec) {
		progress(Event{Step: StepBuild, Done: true, Note: note})
	}
	answered, stop := while(ctx, rec, p.unanswered)
	defer stop()
	err = p.bringUp(answered, rec, sockets, opts.Within, progress)
	if err == nil {
		err = waitControlPlanes(answered, rec)
	}
	if err != nil {
		return nil, p.blame(err, c.Name)
	}
	return p.describe(rec), nil
}

// bringUp starts the supervisor of a published cluster and returns when the
// API server is ready. It closes sockets: the supervisor has its own.
func (p Paths) bringUp(ctx context.Context, rec *record, sockets map[string]*os.File, within time.Duration, progress func(Event)) error {
	defer closeAll(sockets)
	proc, events, err := p.launch(rec.Cluster.Name, sockets)
	if err != nil {
		return err
	}
	defer proc.Close()
	defer events.Close()
	closeAll(sockets)
	if err := follow(ctx, events, progress); err != nil {
		return err
	}
	end := begin(progress, StepServer)
	if err := end(p.waitReady(ctx, rec, within)); err != nil {
		return err
	}
	if rec.Cluster.Networking.HostDNS {
		end = begin(progress, StepHostDNS)
		return end(p.startHostDNS(ctx, rec))
	}
	return nil
}

// begin reports the start of a step; the returned function its end.
func begin(progress func(Event), step Step) func(error) error {
	start := time.Now()
	progress(Event{Step: step})
	return func(err error) error {
		if err != nil {
			progress(Event{Step: step, Error: err.Error()})
			return err
		}
		progress(Event{Step: step, Done: true, Took: time.Since(start)})
		return nil
	}
}

// blame adds where to read more; a cancellation needs no reading, and who has
// a mend has said it.
func (p Paths) blame(err error, name string) error {
	var mended interface{ Mend() string }
	if errors.Is(err, context.Canceled) || errors.As(err, &mended) {
		return err
	}
	return &Refusal{Err: fmt.Errorf("create cluster %q: %w", name, err),
		Help: "create it with --retain, then read the files in " + filepath.Join(p.Cluster(name), "logs")}
}

// waitMachines waits until all machines run that a supervisor is starting.
func (p Paths) waitMachines(ctx context.Context, rec *record, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, max(within, readyBound))
	defer cancel()
	for _, m := range rec.Machines {
		for !p.runs(rec.Cluster.Name, m.Name) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("machine %s: %w: %w", m.Name, ErrNotRunning, ctx.Err())
			case <-time.After(readyRetry):
			}
		}
	}
	return nil
}

func clone(c *cluster.Cluster) (*cluster.Cluster, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("copy config: %w", err)
	}
	out := &cluster.Cluster{}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("copy config: %w", err)
	}
	cluster.SetDefaults(out)
	return out, nil
}

// make publishes the cluster, with its ports open and its cables laid.
func (p Paths) make(ctx context.Context, c *cluster.Cluster, from *origin, verbosity int) (*record, map[string]*os.File, error) {
	h, err := readHost(p)
	if err != nil {
		return nil, nil, err
	}
	rec, sockets, err := p.reserve(ctx, c, from)
	if err != nil {
		return nil, nil, err
	}
	rec.Verbosity = verbosity
	if err := p.build(ctx, rec, h, from); err != nil {
		closeAll(sockets)
		return nil, nil, err
	}
	return rec, sockets, nil
}

// reserve takes what clusters of one host must not share, ranges and ports.
func (p Paths) reserve(ctx context.Context, c *cluster.Cluster, from *origin) (*record, map[string]*os.File, error) {
	unlock, err := p.lockHost(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	if err := p.leaveTaken(c, from); err != nil {
		return nil, nil, err
	}
	if err := p.chooseRanges(c); err != nil {
		return nil, nil, err
	}
	if err := from.roomFor(c); err != nil {
		return nil, nil, err
	}
	if err := p.oneHostDNS(c); err != nil {
		return nil, nil, err
	}
	mtu, err := fabric.HostMTU("")
	if err != nil {
		return nil, nil, err
	}
	rec, err := newRecord(c, mtu, time.Now())
	if err != nil {
		return nil, nil, err
	}
	if from != nil && from.rec.Cluster.Name == c.Name {
		rec.ID = from.rec.ID // it is that cluster again
	}
	others, err := p.published()
	if err != nil {
		return nil, nil, err
	}
	open := openNew(others)
	if from != nil {
		open = openKeptOrFree(open)
	}
	sockets, err := openSockets(ctx, rec, open)
	if err != nil {
		return nil, nil, err
	}
	if err := p.announce(rec); err != nil {
		closeAll(sockets)
		return nil, nil, err
	}
	return rec, sockets, nil
}

// waitReady asks the API server on its host endpoint until every check of its
// readiness passes. The first connection waits in the listener's queue until
// there is a server.
func (p Paths) waitReady(ctx context.Context, rec *record, within time.Duration) error {
	within = max(within, readyBound)
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("the API server is not ready after %v", within))
	defer cancel()
	ctx, stop := while(ctx, rec, p.outvoted)
	defer stop()
	ca, err := os.ReadFile(filepath.Join(p.Cluster(rec.Cluster.Name), "pki", "ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+clientAddress(&rec.Cluster)+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err == nil {
			// Read to its end, or the connection cannot be used again.
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return p.crashed(rec, context.Cause(ctx))
		case <-time.After(readyRetry):
		}
	}
}
