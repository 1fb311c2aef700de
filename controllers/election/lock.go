package election

import (
	"context"
	"errors"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/clock"
)

// wall is what leases count by, as upstream's candidates do: they are about
// processes that live or stand still, whatever the cluster's clock shows.
var wall clock.PassiveClock = clock.RealClock{}

// standstill is how long a candidate that runs never goes without a look at
// the lease: longer than retryPeriod with its jitter, shorter than the time
// after which it takes an unchanged lease for free.
const standstill = renewDeadline

var errStoodStill = errors.New("this process stood still, and so may have the holder: its lease is left to it for a while")

// lock is a lease's, with two cares for processes that stand still, as all do
// in a cluster that is paused. Upstream's candidate takes a lease that it has
// not seen renewed, however long it did not look; and upstream's holder works
// until renewDeadline although it knows that another has the lease.
type lock struct {
	*resourcelock.LeaseLock
	// lost is called when another has the lease that this process had.
	lost func()
	// looked is the time of the last look, woke that of the last one that came
	// late.
	looked, woke time.Time
	// holder is who had the lease then.
	holder string
}

// Get reads the lease.
func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.LeaseLock.Get(ctx)
	l.look()
	if err == nil {
		if now := record.HolderIdentity; l.holder == l.Identity() && now != l.holder && now != "" {
			l.lost()
		}
		l.holder = record.HolderIdentity
	}
	return record, raw, err
}

// Update takes, renews or gives back the lease.
func (l *lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	// As long as a new candidate, nearly.
	if wall.Since(l.woke) < standstill && l.holder != "" && l.holder != l.Identity() {
		return errStoodStill
	}
	err := l.LeaseLock.Update(ctx, record)
	if l.look(); err == nil {
		l.holder = record.HolderIdentity
	}
	return err
}

// Create takes a lease that nobody ever had.
func (l *lock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.LeaseLock.Create(ctx, record)
	if l.look(); err == nil {
		l.holder = record.HolderIdentity
	}
	return err
}

// look notes one, and whether the one before was too long ago.
func (l *lock) look() {
	before := l.looked
	l.looked = wall.Now()
	if !before.IsZero() && l.looked.Sub(before) > standstill {
		l.woke = l.looked
	}
}
