package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
	"github.com/skiff-k8s/skiff/hostnode/namespaces/pid1"
)

// cleanBound is how long the remains of a dead machine may take to go.
const cleanBound = 30 * time.Second

// machineEnd is how a machine ends that was started: nobody hears of a status.
const machineEnd = "the end of its process 1"

// roomMachine is one machine under supervision.
//
//	down → (adopted | started) → up → ended → cleaned → (back-off) → started …
type roomMachine struct {
	room *room
	name string
	plan *machinePlan
	// sockets of the host, kept open here so that clients wait while the
	// machine restarts instead of being refused.
	sockets map[string]*os.File

	// adopted says that an earlier supervisor started the machine.
	adopted bool

	mu       sync.Mutex // guards the fields below
	proc     *namespaces.Process
	started  time.Time
	restarts int
}

func (m *roomMachine) cgroup() string { return machineCgroup(m.room.rec.Cluster.Name, m.name) }

func (m *roomMachine) ensureCgroup() error {
	return m.room.host.layout.Ensure(m.cgroup(), m.plan.limits)
}

func (m *roomMachine) statePath() string {
	return m.room.paths.machineState(m.room.rec.Cluster.Name, m.name)
}

// run keeps the machine up until ctx ends; the machine runs on then. up is
// called when it has booted for the first time. An error that a restart
// cannot mend ends it; only the first start has such errors.
func (m *roomMachine) run(ctx context.Context, up func()) error {
	var backoff pid1.Backoff
	crashes := pid1.NewCrashLoop(m.room.paths.crashLoopNote(m.room.rec.Cluster.Name, m.name), "")
	last := machineEnd
	if !m.adopted {
		// A predecessor may have died between the machine's end and the
		// cleaning, or while it started it.
		if err := m.clean(ctx, false); err != nil {
			return err
		}
		if err := m.start(ctx); err != nil {
			return err
		}
	}
	for {
		up()
		ran, err := m.wait(ctx)
		if err != nil {
			return err
		}
		for {
			delay := backoff.After(ran)
			if err := crashes.Ended(ran, time.Now(), last); err != nil {
				m.room.log.Warn("crash loop not told", "machine", m.name, "error", err)
			}
			m.room.log.Warn("machine ended", "machine", m.name, "ran", ran, "again", delay)
			if err := sleep(ctx, delay); err != nil {
				return err
			}
			err := m.clean(ctx, true)
			if err == nil {
				err = m.start(ctx)
			}
			if err == nil {
				last = machineEnd
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			m.room.log.Error("machine does not start", "machine", m.name, "error", err)
			ran, last = 0, err.Error()
		}
		m.mu.Lock()
		m.restarts++
		m.mu.Unlock()
	}
}

// adopt finds a machine that an earlier supervisor started and takes back the
// sockets that it handed over.
func (m *roomMachine) adopt() error {
	proc, state, err := findProcess(m.statePath())
	if errors.Is(err, namespaces.ErrGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find machine %s: %w", m.name, err)
	}
	m.adopted = true
	for name, fd := range state.Sockets {
		f, err := proc.TakeFile(fd, name)
		if err != nil {
			// It may end just now; then the socket is free to be opened anew.
			m.room.log.Warn("socket not taken back", "machine", m.name, "socket", name, "error", err)
			continue
		}
		m.sockets[name] = f
	}
	m.set(proc, state.Started)
	m.room.log.Info("machine found running", "machine", m.name, "pid", proc.PID)
	return nil
}

// start makes the machine run. Its cgroups and its network exist.
func (m *roomMachine) start(ctx context.Context) error {
	begin := time.Now()
	if err := m.ensureCgroup(); err != nil {
		return err
	}
	if err := m.openSockets(ctx); err != nil {
		return err
	}
	if err := m.room.prepareMember(m.name); err != nil {
		return err
	}
	name := m.room.rec.Cluster.Name
	output, err := os.OpenFile(m.room.paths.Log(name, m.name, "init"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open log of machine %s: %w", m.name, err)
	}
	defer output.Close()
	if err := rotateLog(output.Name()); err != nil {
		return err
	}
	proc, err := namespaces.Start(ctx, namespaces.Machine{
		Init: m.room.paths.Libexec + "/" + initProgram, Config: m.plan.init,
		CgroupPath: m.cgroup(), Hierarchies: m.room.host.layout,
		Netns: m.room.fabric.NodeNetns(m.name), Output: output, Sockets: m.sockets,
	})
	if err != nil {
		return err
	}
	names := make([]string, 0, len(m.sockets))
	for socket := range m.sockets {
		names = append(names, socket)
	}
	if err := writeProcess(m.statePath(), proc, namespaces.SocketNumbers(names)); err != nil {
		_ = proc.Signal(unix.SIGKILL) // nobody would find it
		proc.Close()
		return fmt.Errorf("record machine %s: %w", m.name, err)
	}
	m.set(proc, begin)
	m.room.log.Info("machine started", "machine", m.name, "pid", proc.PID, "took", time.Since(begin))
	m.room.events.send(Event{Step: StepMachines, Machine: m.name, Done: true, Took: time.Since(begin)})
	return nil
}

// openSockets opens those sockets of the host that nobody handed us, or has
// one of: API servers share theirs.
func (m *roomMachine) openSockets(ctx context.Context) error {
	m.room.opening.Lock()
	defer m.room.opening.Unlock()
	open := map[string]*os.File{}
	for _, other := range m.room.machines {
		if f := other.sockets[machine.SocketAPIServer]; f != nil {
			open[other.name+"/"+machine.SocketAPIServer] = f
		}
	}
	for name, s := range m.plan.sockets {
		if m.sockets[name] != nil {
			continue
		}
		f, err := shared(open, name)
		if f == nil && err == nil {
			f, err = openKept(ctx, s)
		}
		if err != nil {
			return fmt.Errorf("machine %s: %w", m.name, err)
		}
		m.sockets[name] = f
	}
	return nil
}

// wait returns when the machine has ended, and how long it ran.
func (m *roomMachine) wait(ctx context.Context) (time.Duration, error) {
	err := m.proc.Wait(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proc.Close()
	m.proc = nil
	return time.Since(m.started), err
}

// clean removes what a dead machine leaves: processes that were moved out of
// its pid namespace, cgroup directories of pods, and, after a first life, its
// network namespace with the cables of its pods.
func (m *roomMachine) clean(ctx context.Context, network bool) error {
	ctx, cancel := context.WithTimeout(ctx, cleanBound)
	defer cancel()
	if err := m.room.host.layout.Remove(ctx, m.cgroup()); err != nil {
		return fmt.Errorf("clean up machine %s: %w", m.name, err)
	}
	if !network {
		return nil
	}
	if err := m.room.fabric.ResetNode(ctx, m.name); err != nil {
		return fmt.Errorf("clean up machine %s: %w", m.name, err)
	}
	return nil
}

func (m *roomMachine) set(proc *namespaces.Process, started time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proc, m.started = proc, started
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
