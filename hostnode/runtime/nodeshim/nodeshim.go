// Package nodeshim keeps a node's one shim process running: skiff-shim, the
// task service that all containers of the node join.
//
// The shim is started with the first pod, restarted when it dies, and outlives
// the node process: a new node process finds it by its pid file and socket.
// Nothing here knows about containers; containerd connects to the address.
package nodeshim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/hostnode/runtime/pidfd"
)

// Config describes the shim of one node.
type Config struct {
	// Binary is the path of skiff-shim.
	Binary string
	// Dir is the shim's working directory, on tmpfs; its socket and pid file
	// are in it.
	Dir string
	// EventAddress is containerd's ttrpc socket, for the shim's events.
	EventAddress string
	// Namespace is containerd's namespace of the containers.
	Namespace string
	Log       *slog.Logger
}

// Shim is the one shim of a node.
type Shim struct {
	cfg Config

	// mu guards the fields below.
	mu      sync.Mutex
	process *pidfd.Process
	closed  bool
	watch   sync.WaitGroup
}

// state is the pid file.
type state struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
}

// New returns the shim of a node, not yet running.
func New(cfg Config) *Shim { return &Shim{cfg: cfg} }

// Address is where containerd finds the task service.
func (s *Shim) Address() string { return "ttrpc+unix://" + s.socket() }

func (s *Shim) socket() string  { return filepath.Join(s.cfg.Dir, "shim.sock") }
func (s *Shim) pidFile() string { return filepath.Join(s.cfg.Dir, "shim.json") }

// Adopt takes over a shim that an earlier node process started, if it lives.
func (s *Shim) Adopt() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := os.ReadFile(s.pidFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("adopt shim: %w", err)
	}
	var st state
	if err := json.Unmarshal(data, &st); err != nil {
		// Torn by a crash: the shim behind it, if any, is unknown to us.
		return fmt.Errorf("adopt shim: read %s: %w", s.pidFile(), err)
	}
	process, err := pidfd.Open(st.PID, st.StartTime)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("adopt shim: %w", err)
	}
	s.supervise(process)
	return nil
}

// Ensure starts the shim unless it runs.
func (s *Shim) Ensure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil || s.closed {
		return nil
	}
	return s.start()
}

// start runs the shim; its socket exists and accepts before it returns. The
// caller holds mu.
func (s *Shim) start() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	if err := os.Remove(s.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("start shim: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket(), Net: "unix"})
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	// The socket file belongs to the shim from here on.
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	if err := os.Chmod(s.socket(), 0o600); err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	file, err := listener.File()
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	defer file.Close()
	devNull, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	defer devNull.Close()

	process, err := pidfd.Start(s.cfg.Binary, []string{
		s.cfg.Binary, "-namespace", s.cfg.Namespace, "-id", "node", "-address", s.cfg.EventAddress,
	}, &os.ProcAttr{
		Dir: s.cfg.Dir,
		Env: append(os.Environ(),
			"TTRPC_ADDRESS="+s.cfg.EventAddress, "GRPC_ADDRESS="+s.cfg.EventAddress, "GOMAXPROCS=2"),
		Files: []*os.File{devNull, os.Stderr, os.Stderr, file},
		// A session of its own: signals to the node process's group are not
		// for the containers.
		Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	data, err := json.Marshal(state{PID: process.PID, StartTime: process.StartTime})
	if err == nil {
		err = replaceFile(s.pidFile(), data)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start shim: record pid: %w", err), process.Kill(unix.SIGKILL), process.Close())
	}
	s.cfg.Log.Info("shim started", "pid", process.PID)
	s.supervise(process)
	return nil
}

// supervise restarts the shim when process ends. The caller holds mu.
func (s *Shim) supervise(process *pidfd.Process) {
	s.process = process
	s.watch.Go(func() {
		const backOff = 100 * time.Millisecond    // a shim that cannot start must not spin
		_, _ = process.Wait(context.Background()) // however it ended, there is none
		s.mu.Lock()
		defer s.mu.Unlock()
		s.process = nil
		if s.closed {
			return
		}
		process.Close()
		s.cfg.Log.Warn("shim died: the node's containers end with it", "pid", process.PID)
		for s.start() != nil && !s.closed {
			s.mu.Unlock()
			time.Sleep(backOff)
			s.mu.Lock()
		}
	})
}

// Close lets go of the shim, which goes on running.
func (s *Shim) Close() error {
	s.mu.Lock()
	s.closed = true
	process := s.process
	s.mu.Unlock()
	var err error
	if process != nil {
		err = process.Close()
	}
	s.watch.Wait()
	return err
}

// replaceFile writes path by rename, so that no reader sees half of it.
func replaceFile(path string, data []byte) error {
	aside := path + ".new"
	if err := os.WriteFile(aside, data, 0o600); err != nil {
		return err
	}
	return os.Rename(aside, path)
}
