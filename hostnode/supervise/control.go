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
//	GET /v1/machines   []MachineStatus
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

func (m *roomMachine) status() MachineStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := MachineStatus{Name: m.name, Restarts: m.restarts}
	if m.proc != nil {
		s.PID, s.Started = m.proc.PID, m.started
	}
	return s
}

// Machines asks the cluster's supervisor.
func Machines(ctx context.Context, name string) ([]MachineStatus, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", p.Socket(name))
		},
	}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://skiff/v1/machines", nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("call supervisor of cluster %q: %w", name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("call supervisor of cluster %q: %s", name, response.Status)
	}
	var list []MachineStatus
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("call supervisor of cluster %q: %w", name, err)
	}
	return list, nil
}
