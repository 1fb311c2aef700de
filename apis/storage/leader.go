package storage

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// leaderPatience is how long a call waits for a leader before it fails as
	// upstream's would at once: an election that is told to hurry takes a tenth
	// of a second, one that is not a second.
	leaderPatience = 3 * time.Second
	// changeGrace is how long after a change of leaders the answer to a call of
	// before may still come. What the old leader did not pass on is lost, and
	// etcd would tell only after six seconds.
	changeGrace = 50 * time.Millisecond
	// leaveGrace is how long a call is waited for when this process ends;
	// leaveLook is how often is looked then whether there is any hope for it:
	// a leader that finds itself alone is no event.
	leaveGrace = 500 * time.Millisecond
	leaveLook  = 20 * time.Millisecond
	// readTries bounds how often a read is repeated, which costs nobody more
	// than the time.
	readTries = 5
)

// member is the part of etcd's server that tells who leads.
type member interface {
	Leader() types.ID
	LeaderChangedNotify() <-chan struct{}
}

// leadership is who leads the members, as this one knows.
type leadership struct {
	member member
	// pace sets the tick in which raft counts, see hasten; nil: it cannot be.
	pace func(time.Duration)
	tick time.Duration

	// mu guards the fields below.
	mu sync.Mutex
	// dead is a leader whose process has ended, until the next election: it may
	// come back and win that.
	dead types.ID
	// reign ends changeGrace after a change of leaders, and end ends it.
	reign context.Context
	end   context.CancelCauseFunc
	// hurry is how often was hurried.
	hurry int
	// leaving is when this process begins to end, closing when it waits for a
	// leader no longer.
	leaving, closing context.Context
	left, close      context.CancelFunc
	// bearable is how many members may be missing, missing are those whose
	// processes have ended.
	bearable int
	missing  map[string]bool
}

func newLeadership(m member, pace func(time.Duration), tick time.Duration) *leadership {
	l := &leadership{member: m, pace: pace, tick: tick, missing: map[string]bool{}}
	l.reign, l.end = context.WithCancelCause(context.Background())
	l.leaving, l.left = context.WithCancel(context.Background())
	l.closing, l.close = context.WithCancel(context.Background())
	return l
}

// leave lets calls fail that need a leader when there is none: this process
// ends, and the others perhaps with it. Those that have one are not hurt.
func (l *leadership) leave() {
	l.left()
	time.AfterFunc(leaveGrace, l.close)
}

// peer takes note of whether another member's process lives.
func (l *leadership) peer(name string, lives bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lives {
		delete(l.missing, name)
	} else {
		l.missing[name] = true
	}
}

// hopeless says that this process ends, and no call that waits will succeed.
func (l *leadership) hopeless() bool {
	if l.closing.Err() != nil && !l.known() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaving.Err() != nil && len(l.missing) > l.bearable
}

// despair ends what waits without hope.
func (l *leadership) despair() {
	if !l.hopeless() {
		return
	}
	l.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(rpctypes.ErrNoLeader)
}

// run ends the calls of one reign after the next has begun, and those without
// hope, until ctx ends.
func (l *leadership) run(ctx context.Context) {
	leaving, closing := l.leaving.Done(), l.closing.Done()
	look := time.NewTicker(time.Hour)
	defer look.Stop()
	for {
		changed := l.member.LeaderChangedNotify()
		select {
		case <-ctx.Done():
			return
		case <-leaving:
			leaving = nil
			look.Reset(leaveLook)
			continue
		case <-closing:
			closing = nil
			l.despair()
			continue
		case <-look.C:
			l.despair()
			continue
		case <-changed:
		}
		l.mu.Lock()
		l.dead = 0
		end := l.end
		l.reign, l.end = context.WithCancelCause(context.Background())
		l.mu.Unlock()
		time.AfterFunc(changeGrace, func() { end(rpctypes.ErrLeaderChanged) })
	}
}

// known says whether there is a leader, as far as is known.
func (l *leadership) known() bool {
	leader := l.member.Leader()
	l.mu.Lock()
	defer l.mu.Unlock()
	return leader != 0 && leader != l.dead
}

// gone takes note of the death of a member's process, and hurries if it led.
func (l *leadership) gone(id types.ID) {
	if id == 0 || l.member.Leader() != id {
		return
	}
	l.mu.Lock()
	l.dead = id
	l.mu.Unlock()
	l.hasten()
}

// hasten lets raft count down quickly to an election, as there is no leader
// whose heartbeat could come. Ticks are raft's measure of when to give up on a
// leader, and of nothing that is safe or unsafe; a member that hurries alone is
// refused by the others, which hear their leader.
func (l *leadership) hasten() {
	if l.pace == nil {
		return
	}
	l.mu.Lock()
	l.hurry++
	mine := l.hurry
	l.pace(hastyTick)
	l.mu.Unlock()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), hasteBound)
		defer cancel()
		_ = l.await(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.hurry == mine {
			l.pace(l.tick)
		}
	}()
}

// await returns when there is a leader, or with an error of etcd's.
func (l *leadership) await(ctx context.Context) error {
	if l.known() {
		return nil
	}
	patience := time.NewTimer(leaderPatience)
	defer patience.Stop()
	for {
		changed := l.member.LeaderChangedNotify()
		if l.known() {
			return nil
		}
		select {
		case <-changed:
			l.mu.Lock()
			l.dead = 0
			l.mu.Unlock()
		case <-ctx.Done():
			return ctx.Err()
		case <-patience.C:
			return rpctypes.ErrNoLeader
		case <-l.closing.Done():
			return rpctypes.ErrNoLeader
		}
	}
}

// do makes a call under one leader. If that changes, the outcome is unknown:
// the call fails, or is made again if that is harmless.
func (l *leadership) do(ctx context.Context, harmless bool, call func(context.Context) error) error {
	for tries := 1; ; tries++ {
		if l.hopeless() {
			return rpctypes.ErrNoLeader
		}
		if err := l.await(ctx); err != nil {
			return err
		}
		l.mu.Lock()
		reign := l.reign
		l.mu.Unlock()
		under, cancel := context.WithCancelCause(ctx)
		stop := context.AfterFunc(reign, func() { cancel(context.Cause(reign)) })
		err := call(under)
		stop()
		if err != nil && ctx.Err() == nil && under.Err() != nil {
			err = context.Cause(under)
		}
		cancel(nil)
		if err == nil || tries == readTries || !again(err, harmless) {
			return err
		}
	}
}

// again says whether to make a call once more that failed with err.
func again(err error, harmless bool) bool {
	if strings.Contains(err.Error(), "raft proposal dropped") {
		return true // before anybody saw it
	}
	return harmless && (errors.Is(err, rpctypes.ErrLeaderChanged) || errors.Is(err, rpctypes.ErrNoLeader) ||
		errors.Is(err, rpctypes.ErrNotLeader) || errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail))
}

// ledKV makes every call under a leader.
type ledKV struct {
	clientv3.KV
	leadership *leadership
}

func (kv ledKV) Put(ctx context.Context, key, value string, opts ...clientv3.OpOption) (r *clientv3.PutResponse, err error) {
	err = kv.leadership.do(ctx, false, func(ctx context.Context) (err error) {
		r, err = kv.KV.Put(ctx, key, value, opts...)
		return err
	})
	return r, err
}

func (kv ledKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (r *clientv3.GetResponse, err error) {
	err = kv.leadership.do(ctx, true, func(ctx context.Context) (err error) {
		r, err = kv.KV.Get(ctx, key, opts...)
		return err
	})
	return r, err
}

func (kv ledKV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (r *clientv3.DeleteResponse, err error) {
	err = kv.leadership.do(ctx, false, func(ctx context.Context) (err error) {
		r, err = kv.KV.Delete(ctx, key, opts...)
		return err
	})
	return r, err
}

func (kv ledKV) Do(ctx context.Context, op clientv3.Op) (r clientv3.OpResponse, err error) {
	err = kv.leadership.do(ctx, op.IsGet(), func(ctx context.Context) (err error) {
		r, err = kv.KV.Do(ctx, op)
		return err
	})
	return r, err
}

func (kv ledKV) Txn(ctx context.Context) clientv3.Txn { return &ledTxn{kv: kv, ctx: ctx, reads: true} }

// ledTxn collects a transaction until its Commit: only then is known under
// whom it is made.
type ledTxn struct {
	kv               ledKV
	ctx              context.Context
	compares         []clientv3.Cmp
	thens            []clientv3.Op
	elses            []clientv3.Op
	reads, otherwise bool
}

func (t *ledTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.compares = append(t.compares, cs...)
	return t
}

func (t *ledTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.thens = append(t.thens, ops...)
	t.note(ops)
	return t
}

func (t *ledTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.elses, t.otherwise = append(t.elses, ops...), true
	t.note(ops)
	return t
}

func (t *ledTxn) note(ops []clientv3.Op) {
	for _, op := range ops {
		t.reads = t.reads && op.IsGet()
	}
}

func (t *ledTxn) Commit() (r *clientv3.TxnResponse, err error) {
	err = t.kv.leadership.do(t.ctx, t.reads, func(ctx context.Context) (err error) {
		txn := t.kv.KV.Txn(ctx)
		if len(t.compares) > 0 {
			txn = txn.If(t.compares...)
		}
		txn = txn.Then(t.thens...)
		if t.otherwise {
			txn = txn.Else(t.elses...)
		}
		r, err = txn.Commit()
		return err
	})
	return r, err
}
