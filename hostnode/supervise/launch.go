package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// Environment of a supervisor that a create has started: the descriptor for
// progress, and the host's sockets.
const (
	envEvents  = "SKIFF_SUPERVISE_EVENTS"
	envSockets = "SKIFF_SUPERVISE_SOCKETS"
)

// environment of every program that skiff leaves behind.
func (p Paths) environment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
		EnvStateDir + "=" + p.StateDir, EnvRunDir + "=" + p.RunDir, EnvLibexec + "=" + p.Libexec,
		EnvEtcDir + "=" + p.EtcDir,
	}
}

// launch starts the supervisor of a published cluster and returns its events;
// sockets are "machine/name".
func (p Paths) launch(name string, sockets map[string]*os.File) (*namespaces.Process, *os.File, error) {
	layout, err := namespaces.Layout()
	if err != nil {
		return nil, nil, err
	}
	// All clusters together leave something to the host.
	hostTasks := readTasks()
	if err := layout.Ensure(allClusters, namespaces.Limits{PIDs: hostTasks - hostTasks/8}); err != nil {
		return nil, nil, err
	}
	if err := layout.Ensure(supervisorCgroup(name), namespaces.Limits{}); err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("start supervisor: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, fmt.Errorf("start supervisor: %w", err)
	}
	defer null.Close()
	log, err := os.OpenFile(p.SupervisorLog(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, nil, fmt.Errorf("start supervisor: %w", err)
	}
	defer log.Close()
	events, theirs, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start supervisor: %w", err)
	}
	defer theirs.Close()

	files := []*os.File{null, log, log, theirs}
	var list []string
	for key, f := range sockets {
		list = append(list, key+"="+strconv.Itoa(len(files)))
		files = append(files, f)
	}
	proc, err := namespaces.Launch(layout, supervisorCgroup(name), namespaces.Program{
		Args: []string{self, "supervise", name}, Files: files,
		Env: slices.Concat(p.environment(), []string{envEvents + "=3", envSockets + "=" + strings.Join(list, ",")}),
	})
	if err != nil {
		events.Close()
		return nil, nil, fmt.Errorf("start supervisor: %w", err)
	}
	return proc, events, nil
}

// follow passes the supervisor's events on until it says that the machines
// run. The end of the stream before that is an error.
func follow(ctx context.Context, events *os.File, progress func(Event)) error {
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewScanner(events)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("read supervisor's progress: %w", err)
		}
		progress(e)
		if e.Error != "" {
			return errors.New(e.Error)
		}
		if e.Step == StepMachines && e.Done && e.Machine == "" {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(errors.New("the supervisor ended before the machines ran"), lines.Err())
}

// Ensure starts the cluster's supervisor again if it is dead and nobody else
// does. The machines run on meanwhile.
func Ensure(ctx context.Context, name string) error {
	p, err := DefaultPaths()
	if err != nil {
		return err
	}
	if _, err := p.readRecord(name); err != nil {
		return err
	}
	if p.supervised(name) {
		return nil
	}
	if err := p.meantToRun(name); err != nil {
		return err
	}
	unlock, err := p.lockCluster(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if p.supervised(name) {
		return nil
	}
	if _, err := p.readRecord(name); err != nil {
		return err // deleted while we waited
	}
	if err := p.meantToRun(name); err != nil {
		return err
	}
	proc, events, err := p.launch(name, nil)
	if err != nil {
		return err
	}
	proc.Close()
	defer events.Close()
	if err := follow(ctx, events, func(Event) {}); err != nil {
		return fmt.Errorf("start cluster %q again: %w; see %s", name, err, p.SupervisorLog(name))
	}
	return nil
}

// meantToRun is ErrStopped for a cluster that was stopped.
func (p Paths) meantToRun(name string) error {
	if _, err := os.Stat(p.wanted(name)); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cluster %q: %w", name, ErrStopped)
	}
	return nil
}

// supervised says whether the supervisor lives, or its watcher, which starts
// another at once.
func (p Paths) supervised(name string) bool {
	for _, path := range []string{p.supervisorState(name), p.watcherState(name)} {
		proc, _, err := findProcess(path)
		if err == nil {
			proc.Close()
			return true
		}
	}
	return false
}

// watch starts the watcher of the supervisor pid: see pid1.Watch. It inherits
// the supervisor's cgroups.
func (p Paths) watch(name string, pid int) (*namespaces.Process, error) {
	layout, err := namespaces.Layout()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	defer null.Close()
	proc, err := namespaces.Launch(layout, supervisorCgroup(name), namespaces.Program{
		Args: []string{filepath.Join(p.Libexec, initProgram), "watch", "-pid", strconv.Itoa(pid),
			"-while", p.wanted(name), "-program", self, "-cluster", name},
		Files: []*os.File{null, os.Stderr, os.Stderr}, Env: p.environment(),
	})
	if err != nil {
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	return proc, writeProcess(p.watcherState(name), proc, nil)
}
