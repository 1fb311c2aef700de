package election

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Names of upstream's leases.
const (
	Scheduler   = "kube-scheduler"
	Controllers = "kube-controller-manager"
)

// Upstream's values are 15, 10 and 2 s. The pace of renewals, which is what an
// idle cluster pays, is upstream's; a holder that stands still is replaced
// sooner.
const (
	leaseDuration = 8 * time.Second
	renewDeadline = 6 * time.Second
	retryPeriod   = 2 * time.Second
	// releaseBound is how long giving back the lease of a dead holder may take:
	// etcd may have lost its leader too.
	releaseBound = 5 * time.Second
)

// Config of an Elector.
type Config struct {
	// Client reaches the API server of this control plane.
	Client *rest.Config
	// Lease is its name in kube-system.
	Lease string
	// Identity is unique to this process: its machine's name, "_", anything.
	Identity string
	// Run works until its context ends, and returns when it has ended. It may
	// be called again afterwards. An error ends the Elector.
	Run func(context.Context) error
	// Log; default slog.Default().
	Log *slog.Logger
}

// Elector runs its part while this process holds the lease.
type Elector struct {
	cfg    Config
	client kubernetes.Interface
	// freed has a token when the lease may be free.
	freed chan struct{}
	// began is before anything of this process's.
	began time.Time
}

// New checks cfg. It starts nothing.
func New(cfg Config) (*Elector, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(rest.CopyConfig(cfg.Client), "leader-election"))
	if err != nil {
		return nil, fmt.Errorf("make client for leader election: %w", err)
	}
	return &Elector{cfg: cfg, client: client, freed: make(chan struct{}, 1), began: wall.Now()}, nil
}

// Run takes part until ctx ends. Its part has ended then, and the lease been
// given back after it.
func (e *Elector) Run(ctx context.Context) error {
	// A machine has one process: an earlier one has ended, perhaps with all of
	// the cluster, so that nobody could give its lease back.
	e.free(ctx, func(r *resourcelock.LeaderElectionRecord) bool {
		return machineOf(r.HolderIdentity) == machineOf(e.cfg.Identity) && r.HolderIdentity != e.cfg.Identity
	})
	select {
	case <-e.freed: // candidacy asks for it anyway
	default:
	}
	for ctx.Err() == nil {
		if err := e.candidacy(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (e *Elector) lock() *resourcelock.LeaseLock {
	return &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: e.cfg.Lease},
		Client:     e.client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: e.cfg.Identity},
	}
}

// candidacy ends with a term, or before it when the lease was freed: a new
// candidate asks for it at once, and knows nothing of when it was renewed.
func (e *Elector) candidacy(ctx context.Context) error {
	elect, withdraw := context.WithCancel(context.WithoutCancel(ctx))
	defer withdraw()
	elected := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &lock{LeaseLock: e.lock(), lost: withdraw}, Name: e.cfg.Lease,
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(term context.Context) { elected <- term },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		elector.Run(elect)
	}()
	defer func() {
		withdraw()
		<-over
	}()
	select {
	case <-ctx.Done():
		return nil
	case <-e.freed:
		return nil
	case <-over:
		return nil
	case term := <-elected:
		return e.work(ctx, term)
	}
}

func (e *Elector) work(ctx, term context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(term, cancel)
	defer stop()
	e.cfg.Log.Info("leads", "lease", e.cfg.Lease)
	err := e.cfg.Run(ctx)
	if term.Err() != nil {
		e.cfg.Log.Warn("lease lost", "lease", e.cfg.Lease)
	}
	return err
}

// Gone gives back the lease of a process of a machine that has ended for
// certain. Without its identity, it is one that ended before this began.
func (e *Elector) Gone(ctx context.Context, machine, identity string) {
	e.free(ctx, func(r *resourcelock.LeaderElectionRecord) bool {
		if identity != "" {
			return r.HolderIdentity == identity
		}
		return machineOf(r.HolderIdentity) == machine && r.RenewTime.Time.Before(e.began)
	})
}

// machineOf is the machine of a process by its identity.
func machineOf(identity string) string {
	machine, _, _ := strings.Cut(identity, "_")
	return machine
}

// free gives back the lease if it is one's that is gone.
func (e *Elector) free(ctx context.Context, gone func(*resourcelock.LeaderElectionRecord) bool) {
	ctx, cancel := context.WithTimeout(ctx, releaseBound)
	defer cancel()
	freed, err := e.release(ctx, gone)
	if err != nil {
		// Another candidate was quicker, or the lease will expire.
		e.cfg.Log.Debug("lease not given back", "lease", e.cfg.Lease, "error", err)
	}
	if freed || err != nil {
		select {
		case e.freed <- struct{}{}:
		default:
		}
	}
}

// release is leaderelection's own for another holder.
func (e *Elector) release(ctx context.Context, gone func(*resourcelock.LeaderElectionRecord) bool) (bool, error) {
	lock := e.lock()
	record, _, err := lock.Get(ctx)
	if err != nil {
		return false, err
	}
	if record.HolderIdentity == "" || !gone(record) {
		return record.HolderIdentity == "", nil
	}
	now := metav1.Now()
	return true, lock.Update(ctx, resourcelock.LeaderElectionRecord{
		LeaseDurationSeconds: 1, RenewTime: now, AcquireTime: now, LeaderTransitions: record.LeaderTransitions,
	})
}
