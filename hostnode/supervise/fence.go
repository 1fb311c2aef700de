package supervise

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/lifeline"
)

// fenceEvery is how often the connections of a control plane that stands still
// are ended, as there may be new ones: until the Service leads to others, and
// because its queue takes them.
const fenceEvery = time.Second

// fencePatience is how long a control plane stays silent beside one that
// serves before it is fenced: after a pause, one of them is first.
const fencePatience = 500 * time.Millisecond

// fence ends the connections of control planes that do not answer while others
// do, so that their clients turn to those at once. One that is cut off from
// the others sees to it itself.
type fence struct {
	room *room

	mu     sync.Mutex // guards the field below
	states map[string]lifeline.State
	// since is from when on there is a reason to fence one.
	since map[string]time.Time
}

// watchControlPlanes fences until ctx ends, if there are several.
func (r *room) watchControlPlanes(ctx context.Context) error {
	peers := r.rec.peers()
	if len(peers) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	f := &fence{room: r, states: map[string]lifeline.State{}, since: map[string]time.Time{}}
	g, ctx := errgroup.WithContext(ctx)
	changed := make(chan struct{}, 1)
	for _, p := range peers {
		g.Go(func() error {
			lifeline.Watch(ctx, lifelineOf(p), func(e lifeline.Event) {
				f.mu.Lock()
				f.states[p.Name] = e.State
				f.mu.Unlock()
				r.log.Info("control plane", "name", p.Name, "state", e.State)
				select {
				case changed <- struct{}{}:
				default:
				}
			})
			return ctx.Err()
		})
	}
	g.Go(func() error {
		for {
			var again <-chan time.Time
			if next := f.endAll(); next > 0 {
				again = time.After(next)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			case <-again:
			}
		}
	})
	return g.Wait()
}

func lifelineOf(p machine.Peer) netip.AddrPort {
	return netip.AddrPortFrom(p.IPs[0], machine.LifelinePort)
}

// fenced are the control planes to fence: silent ones, while another serves.
func fenced(states map[string]lifeline.State) []string {
	var silent []string
	serving := false
	for _, name := range keys(states) {
		switch states[name] {
		case lifeline.Silent:
			silent = append(silent, name)
		case lifeline.Serving:
			serving = true
		}
	}
	if !serving {
		return nil
	}
	return silent
}

// endAll fences who is due, and returns when to look again; 0: when something
// changes.
func (f *fence) endAll() time.Duration {
	f.mu.Lock()
	names := fenced(f.states)
	f.mu.Unlock()
	due, again := patient(f.since, names, time.Now())
	for _, name := range due {
		ended, err := f.end(name)
		if err != nil {
			f.room.log.Warn("connections of a silent control plane not ended", "name", name, "error", err)
		}
		if ended > 0 {
			f.room.log.Info("connections of a silent control plane ended", "name", name, "connections", ended)
		}
	}
	return again
}

// patient notes in since who is new among names, and returns those that have
// been there for a while.
func patient(since map[string]time.Time, names []string, now time.Time) (due []string, again time.Duration) {
	for name := range since {
		if !slices.Contains(names, name) {
			delete(since, name)
		}
	}
	for _, name := range names {
		if since[name].IsZero() {
			since[name] = now
		}
		left := since[name].Add(fencePatience).Sub(now)
		if left <= 0 {
			due, left = append(due, name), fenceEvery
		}
		if again == 0 || left < again {
			again = left
		}
	}
	return due, again
}

// end ends the connections of clients: those to the API server's port in the
// machine, and those of the shared socket that the machine's processes hold.
func (f *fence) end(name string) (int, error) {
	netns, err := os.Open(f.room.fabric.NodeNetns(name))
	if err != nil {
		return 0, fmt.Errorf("fence %s: %w", name, err)
	}
	defer netns.Close()
	ended, err := endConnections(netns, machine.APIServerPort, func(uint32) bool { return true })
	if err != nil {
		return ended, fmt.Errorf("fence %s: %w", name, err)
	}
	held, err := f.room.socketsOf(name)
	if err != nil {
		return ended, fmt.Errorf("fence %s: %w", name, err)
	}
	_, port, err := net.SplitHostPort(clientAddress(&f.room.rec.Cluster))
	if err != nil {
		return ended, fmt.Errorf("fence %s: %w", name, err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return ended, fmt.Errorf("fence %s: %w", name, err)
	}
	more, err := endConnections(nil, uint16(number), func(inode uint32) bool { return held[inode] })
	return ended + more, err
}

// socketsOf are the inodes of all sockets that processes of a machine have.
func (r *room) socketsOf(name string) (map[uint32]bool, error) {
	pids, err := r.host.layout.Processes(machineCgroup(r.rec.Cluster.Name, name))
	if err != nil {
		return nil, err
	}
	inodes := map[uint32]bool{}
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, f := range files {
			target, err := os.Readlink(filepath.Join(dir, f.Name()))
			if err != nil {
				continue
			}
			if text, ok := strings.CutPrefix(target, "socket:["); ok {
				if n, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32); err == nil {
					inodes[uint32(n)] = true
				}
			}
		}
	}
	return inodes, nil
}

// waitControlPlanes returns when all of several control planes serve: which
// one answered first says nothing of the others.
func waitControlPlanes(ctx context.Context, rec *record) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range rec.peers() {
		g.Go(func() error {
			ctx, cancel := context.WithTimeoutCause(ctx, readyBound, fmt.Errorf("the API server of %s is not ready after %v", p.Name, readyBound))
			defer cancel()
			for {
				if state, _ := lifeline.Ask(ctx, lifelineOf(p), askBound); state == lifeline.Serving {
					return nil
				}
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(readyRetry):
				}
			}
		})
	}
	return g.Wait()
}

// askBound is how long a control plane may take to say how it is.
const askBound = 500 * time.Millisecond

// askControlPlanes writes into info what replicated control planes say of
// themselves.
func askControlPlanes(ctx context.Context, rec *record, info *Info) {
	var all sync.WaitGroup
	for _, p := range rec.peers() {
		for i := range info.Machines {
			if m := &info.Machines[i]; m.Name == p.Name && m.Running {
				all.Go(func() {
					state, _ := lifeline.Ask(ctx, lifelineOf(p), askBound)
					m.APIServer = state.String()
				})
			}
		}
	}
	all.Wait()
	for _, m := range info.Machines {
		if info.State == Running && m.Role == cluster.ControlPlaneRole && m.APIServer != "" && m.APIServer != lifeline.Serving.String() {
			info.State = Degraded
		}
	}
}
