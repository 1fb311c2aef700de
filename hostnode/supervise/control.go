package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// MachineStatus is what the supervisor knows about a machine.
type MachineStatus struct {
	Name     string    `json:"name"`
	PID      int       `json:"pid,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Restarts int       `json:"restarts"`
}

// serveControl answers on the control socket: HTTP and JSON, for root only
// like the run directory that the socket is in.
//
//	GET  /v1/machines               []MachineStatus
//	POST /v1/machines/{name}/kill   ends the machine as a power cut does
func (r *room) serveControl(ctx context.Context) error {
	path := r.paths.Socket(r.rec.Cluster.Name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("serve control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/machines", r.handleMachines)
	mux.HandleFunc("POST /v1/machines/{name}/kill", r.handleKill)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return ctx.Err()
}

func (r *room) handleMachines(w http.ResponseWriter, _ *http.Request) {
	list := make([]MachineStatus, 0, len(r.machines))
	for _, m := range r.machines {
		list = append(list, m.status())
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list) // the client has gone
}

func (r *room) handleKill(w http.ResponseWriter, req *http.Request) {
	for _, m := range r.machines {
		if m.name != req.PathValue("name") {
			continue
		}
		if err := m.kill(); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	http.Error(w, ErrNoMachine.Error(), http.StatusNotFound)
}

func (m *roomMachine) status() MachineStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := MachineStatus{Name: m.name, Restarts: m.restarts}
	if m.proc != nil {
		s.PID, s.Started = m.proc.PID, m.started
	}
	return s
}

func (m *roomMachine) kill() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil {
		return ErrNotRunning
	}
	m.room.log.Info("machine killed on demand", "machine", m.name)
	if err := m.proc.Signal(unix.SIGKILL); err != nil {
		if errors.Is(err, namespaces.ErrGone) {
			return ErrNotRunning
		}
		return err
	}
	return nil
}

// Machines asks the cluster's supervisor.
func Machines(ctx context.Context, name string) ([]MachineStatus, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	var list []MachineStatus
	err = p.call(ctx, name, http.MethodGet, "/v1/machines", &list)
	return list, err
}

// call makes a request to the supervisor; out may be nil.
func (p Paths) call(ctx context.Context, name, method, path string, out any) error {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", p.Socket(name))
		},
	}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, method, "http://skiff"+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("call supervisor of cluster %q: %w", name, err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return fmt.Errorf("call supervisor of cluster %q: %s", name, response.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(out); err != nil {
		return fmt.Errorf("call supervisor of cluster %q: %w", name, err)
	}
	return nil
}
