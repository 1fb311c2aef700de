package storage

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
)

// fakeMember is led by whom the test says.
type fakeMember struct {
	mu      sync.Mutex
	leader  types.ID
	changed chan struct{}
}

func newFakeMember(leader types.ID) *fakeMember {
	return &fakeMember{leader: leader, changed: make(chan struct{})}
}

func (f *fakeMember) Leader() types.ID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leader
}

func (f *fakeMember) LeaderChangedNotify() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeMember) elect(leader types.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leader = leader
	if leader != 0 {
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// led runs a leadership on a fake member for a test with a clock of its own.
func led(t *testing.T, test func(*testing.T, *fakeMember, *leadership, *[]time.Duration)) {
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMember(1)
		var paces []time.Duration
		l := newLeadership(m, func(d time.Duration) { paces = append(paces, d) }, 50*time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(ctx)
		}()
		synctest.Wait()
		test(t, m, l, &paces)
		cancel()
		<-done
	})
}

func TestACallWaitsForALeader(t *testing.T) {
	led(t, func(t *testing.T, m *fakeMember, l *leadership, _ *[]time.Duration) {
		m.elect(0)
		begin := time.Now()
		time.AfterFunc(time.Second, func() { m.elect(2) })
		if err := l.do(t.Context(), false, func(context.Context) error { return nil }); err != nil || time.Since(begin) != time.Second {
			t.Errorf("%v after %v, want success with the leader after 1s", err, time.Since(begin))
		}
	})
}

func TestACallDoesNotWaitForEver(t *testing.T) {
	led(t, func(t *testing.T, m *fakeMember, l *leadership, _ *[]time.Duration) {
		m.elect(0)
		called := false
		err := l.do(t.Context(), false, func(context.Context) error { called = true; return nil })
		if !errors.Is(err, rpctypes.ErrNoLeader) || called {
			t.Errorf("%v, called %v", err, called)
		}
	})
}

func TestACallThatALeaderTookAwayWithItFails(t *testing.T) {
	led(t, func(t *testing.T, m *fakeMember, l *leadership, _ *[]time.Duration) {
		begin := time.Now()
		time.AfterFunc(time.Second, func() { m.elect(2) })
		err := l.do(t.Context(), false, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, rpctypes.ErrLeaderChanged) || time.Since(begin) != time.Second+changeGrace {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

func TestAReadThatALeaderTookAwayWithItIsMadeAgain(t *testing.T) {
	led(t, func(t *testing.T, m *fakeMember, l *leadership, _ *[]time.Duration) {
		time.AfterFunc(time.Second, func() { m.elect(2) })
		calls := 0
		err := l.do(t.Context(), true, func(ctx context.Context) error {
			if calls++; calls == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		if err != nil || calls != 2 {
			t.Errorf("%v after %d calls", err, calls)
		}
	})
}

func TestACallersOwnEndIsNoChangeOfLeaders(t *testing.T) {
	led(t, func(t *testing.T, _ *fakeMember, l *leadership, _ *[]time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := l.do(ctx, true, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

func TestTheDeathOfALeaderMakesTheOthersHurry(t *testing.T) {
	led(t, func(t *testing.T, m *fakeMember, l *leadership, paces *[]time.Duration) {
		l.gone(2)
		if len(*paces) != 0 || !l.known() {
			t.Errorf("the death of a follower: %v", *paces)
		}
		l.gone(1)
		if l.known() {
			t.Error("a dead leader counts as one")
		}
		time.Sleep(100 * time.Millisecond)
		m.elect(3)
		synctest.Wait()
		if !l.known() || len(*paces) != 2 || (*paces)[0] != hastyTick || (*paces)[1] != 50*time.Millisecond {
			t.Errorf("known %v, paces %v", l.known(), *paces)
		}
		m.elect(1)
		synctest.Wait()
		if !l.known() {
			t.Error("one that came back and leads again counts as dead")
		}
	})
}

func TestWithoutAMajorityTheHurryEnds(t *testing.T) {
	led(t, func(t *testing.T, _ *fakeMember, l *leadership, paces *[]time.Duration) {
		l.gone(1)
		time.Sleep(hasteBound)
		synctest.Wait()
		if len(*paces) != 2 || (*paces)[1] != 50*time.Millisecond {
			t.Errorf("paces %v", *paces)
		}
	})
}

func TestNobodyWaitsForALeaderInAProcessThatEnds(t *testing.T) {
	led(t, func(t *testing.T, m *fakeMember, l *leadership, _ *[]time.Duration) {
		begin := time.Now()
		time.AfterFunc(time.Second, func() { m.elect(0); l.leave() })
		err := l.do(t.Context(), false, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if took := time.Since(begin); !errors.Is(err, rpctypes.ErrNoLeader) || took != time.Second+leaveGrace {
			t.Errorf("a call on its way: %v after %v", err, took)
		}
		if err := l.do(t.Context(), false, func(context.Context) error { return nil }); !errors.Is(err, rpctypes.ErrNoLeader) {
			t.Errorf("a new call: %v", err)
		}
	})
}

func TestWhoEndsWithAMajorityHasNoHopeForItsCalls(t *testing.T) {
	led(t, func(t *testing.T, _ *fakeMember, l *leadership, _ *[]time.Duration) {
		l.bearable = 1
		call := func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		bounded, cancel := context.WithTimeout(t.Context(), 2*leaveGrace)
		defer cancel()
		l.peer("b", false)
		l.peer("c", false)
		l.peer("c", true)
		l.leave()
		if err := l.do(bounded, false, call); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with one that lives, and a leader: %v", err)
		}
		begin := time.Now()
		time.AfterFunc(time.Second, func() { l.peer("c", false) })
		if err := l.do(t.Context(), false, call); !errors.Is(err, rpctypes.ErrNoLeader) || time.Since(begin) > time.Second+leaveLook {
			t.Errorf("a leader that is alone: %v after %v", err, time.Since(begin))
		}
	})
}
