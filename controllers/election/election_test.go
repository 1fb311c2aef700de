package election

import (
	"context"
	"errors"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

// candidate is an Elector that tells when it leads.
type candidate struct {
	*Elector
	leads  chan struct{}
	ended  chan struct{}
	cancel context.CancelFunc
	done   chan error
}

func run(t *testing.T, lease, identity string) *candidate {
	t.Helper()
	c := &candidate{leads: make(chan struct{}, 8), ended: make(chan struct{}, 8), done: make(chan error, 1)}
	var err error
	c.Elector, err = New(Config{Client: apitest.Server(t).Config, Lease: lease, Identity: identity, Run: func(ctx context.Context) error {
		c.leads <- struct{}{}
		<-ctx.Done()
		c.ended <- struct{}{}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel = cancel
	go func() { c.done <- c.Run(ctx) }()
	return c
}

func (c *candidate) stop(t *testing.T) {
	t.Helper()
	c.cancel()
	if err := <-c.done; err != nil {
		t.Error(err)
	}
}

// within fails unless something comes in time, and returns how long it took.
func within(t *testing.T, what string, ch <-chan struct{}, bound time.Duration) time.Duration {
	t.Helper()
	begin := time.Now()
	select {
	case <-ch:
	case <-time.After(bound):
		t.Fatalf("%s: not within %v", what, bound)
	}
	return time.Since(begin)
}

func holder(t *testing.T, lease string) string {
	t.Helper()
	l, err := apitest.Server(t).Client.CoordinationV1().Leases("kube-system").Get(t.Context(), lease, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && l.Spec.HolderIdentity == nil {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return *l.Spec.HolderIdentity
}

func TestWhoEndsOrderlyHandsOver(t *testing.T) {
	first := run(t, "orderly", "cp_1")
	within(t, "the only candidate leads", first.leads, 10*time.Second)
	second := run(t, "orderly", "cp2_1")
	defer second.stop(t)
	select {
	case <-second.leads:
		t.Fatal("two lead")
	case <-time.After(retryPeriod / 2):
	}
	first.stop(t)
	within(t, "its part has ended", first.ended, time.Millisecond)
	within(t, "the next one leads", second.leads, 2*retryPeriod)
}

func TestTheLeaseOfADeadProcessIsFreedAtOnce(t *testing.T) {
	// Nobody renews it.
	client := apitest.Server(t).Client
	dead := run(t, "dead", "cp_1")
	within(t, "the only candidate leads", dead.leads, 10*time.Second)
	dead.stop(t)
	lease, err := client.CoordinationV1().Leases("kube-system").Get(t.Context(), "dead", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	identity, now, seconds := "cp_1", metav1.NowMicro(), int32(leaseDuration/time.Second)
	lease.Spec.HolderIdentity, lease.Spec.RenewTime, lease.Spec.LeaseDurationSeconds = &identity, &now, &seconds
	if _, err := client.CoordinationV1().Leases("kube-system").Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	next := run(t, "dead", "cp2_1")
	defer next.stop(t)
	select {
	case <-next.leads:
		t.Fatal("a lease that is held is taken")
	case <-time.After(500 * time.Millisecond):
	}
	next.Gone(t.Context(), "cp3", "cp3_1")
	next.Gone(t.Context(), "cp3", "")
	if got := holder(t, "dead"); got != "cp_1" {
		t.Errorf("the death of another frees it: %q holds it", got)
	}
	next.Gone(t.Context(), "cp", "cp_1")
	if took := within(t, "the next one leads", next.leads, time.Second); took > time.Second {
		t.Errorf("took %v", took)
	}
	if got := holder(t, "dead"); got != "cp2_1" {
		t.Errorf("%q holds it", got)
	}
}

func TestWhoLosesTheLeaseEndsAndStandsAgain(t *testing.T) {
	c := run(t, "stolen", "cp_1")
	defer c.stop(t)
	within(t, "the only candidate leads", c.leads, 10*time.Second)
	client := apitest.Server(t).Client.CoordinationV1().Leases("kube-system")
	// As an API server does that sees this process silent for too long, until
	// the thief's lease ends, too.
	for begin := time.Now(); time.Since(begin) < renewDeadline+retryPeriod; time.Sleep(200 * time.Millisecond) {
		lease, err := client.Get(t.Context(), "stolen", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		identity, now, seconds := "thief", metav1.NowMicro(), int32(1)
		lease.Spec.HolderIdentity, lease.Spec.RenewTime, lease.Spec.LeaseDurationSeconds = &identity, &now, &seconds
		if _, err := client.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
	within(t, "its part ends", c.ended, 5*time.Second)
	within(t, "it leads again", c.leads, leaseDuration+2*retryPeriod)
}

// forget has no lease be there afterwards.
func forget(t *testing.T, lease string) {
	t.Cleanup(func() {
		err := apitest.Server(t).Client.CoordinationV1().Leases("kube-system").Delete(context.Background(), lease, metav1.DeleteOptions{})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestALeaseIsLeftToItsHolderByACandidateThatStoodStill(t *testing.T) {
	lockOf := func(identity string, lost func()) *lock {
		e, err := New(Config{Client: apitest.Server(t).Config, Lease: "paused", Identity: identity})
		if err != nil {
			t.Fatal(err)
		}
		return &lock{LeaseLock: e.lock(), lost: lost}
	}
	record := func(holder string) resourcelock.LeaderElectionRecord {
		return resourcelock.LeaderElectionRecord{HolderIdentity: holder, LeaseDurationSeconds: 8, AcquireTime: metav1.Now(), RenewTime: metav1.Now()}
	}
	get := func(l *lock) {
		t.Helper()
		if _, _, err := l.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	lost := 0
	first, second := lockOf("cp_1", func() { lost++ }), lockOf("cp2_1", func() { t.Error("lost what it never had") })
	if err := first.Create(t.Context(), record("cp_1")); err != nil {
		t.Fatal(err)
	}
	forget(t, "paused")
	get(second)
	pause := func(l *lock) { l.looked = time.Now().Add(-2 * standstill) }
	awake := func(l *lock) { l.looked, l.woke = time.Time{}, time.Time{} } // however slow this is
	pause(first)
	pause(second)
	get(second)
	if err := second.Update(t.Context(), record("cp2_1")); !errors.Is(err, errStoodStill) {
		t.Fatalf("taken after a pause: %v", err)
	}
	get(first)
	if err := first.Update(t.Context(), record("cp_1")); err != nil {
		t.Errorf("its holder does not renew it after a pause: %v", err)
	}
	// A while later, and it has not been renewed: the holder is dead.
	awake(second)
	get(second)
	if err := second.Update(t.Context(), record("cp2_1")); err != nil {
		t.Fatal(err)
	}
	if lost > 0 {
		t.Error("lost before anybody told it so")
	}
	get(first)
	get(first)
	if lost != 1 {
		t.Errorf("the former holder is told %d times", lost)
	}
	// A lease that was given back is everybody's.
	if err := second.Update(t.Context(), record("")); err != nil {
		t.Fatal(err)
	}
	pause(first)
	get(first)
	if err := first.Update(t.Context(), record("cp_1")); err != nil {
		t.Error(err)
	}
}

func TestALeaseOfBeforeAStopIsFreedAtOnce(t *testing.T) {
	leases := apitest.Server(t).Client.CoordinationV1().Leases("kube-system")
	for lease, gone := range map[string]func(*candidate){
		"own": func(*candidate) {}, // by whoever runs in the machine now
		"others": func(c *candidate) {
			select {
			case <-c.leads:
				t.Error("a lease that is held is taken")
			case <-time.After(500 * time.Millisecond):
			}
			c.Gone(t.Context(), "cp2", "") // which has not come back
		},
	} {
		holder, renewed, seconds := map[string]string{"own": "cp_1", "others": "cp2_1"}[lease], metav1.NowMicro(), int32(3600)
		if _, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: lease}, Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, RenewTime: &renewed, AcquireTime: &renewed, LeaseDurationSeconds: &seconds}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		forget(t, lease)
		c := run(t, lease, "cp_2")
		gone(c)
		within(t, "it leads", c.leads, time.Minute)
		c.stop(t)
	}
}
