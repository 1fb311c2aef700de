package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// State of a cluster as a whole.
type State string

// The values of State.
const (
	// Running: the supervisor and every machine run.
	Running State = "running"
	// Degraded: some of them do, or a part of a machine does not.
	Degraded State = "degraded"
	// Stopped: nothing runs.
	Stopped State = "stopped"
	// Paused: a machine stands still.
	Paused State = "paused"
	// Damaged: etcd's files are not what was written to them, and so are not
	// served. It may run or not.
	Damaged State = "damaged"
	// Newer: a newer skiff made it, and this one leaves it alone.
	Newer State = "newer than this skiff"
	// Unreadable: its record is damaged.
	Unreadable State = "unreadable"
)

// Info describes a cluster.
type Info struct {
	Name       string             `json:"name"`
	State      State              `json:"state"`
	Created    time.Time          `json:"created"`
	Durability cluster.Durability `json:"durability"`
	// PowerCut says what a power cut may cost.
	PowerCut string `json:"powerCut"`
	// Trouble is what keeps a control plane from serving, and Mend what to do
	// about it; empty: nothing does.
	Trouble string `json:"trouble,omitempty"`
	Mend    string `json:"mend,omitempty"`
	// Restart says whether the host starts the cluster when it boots.
	Restart cluster.RestartPolicy `json:"restart"`
	// Endpoint is the API server's host:port for clients on the host.
	Endpoint string `json:"endpoint"`
	// SupervisorPID is 0 when it is down.
	SupervisorPID      int           `json:"supervisorPID,omitempty"`
	NodeSubnet         string        `json:"nodeSubnet"`
	PodSubnet          string        `json:"podSubnet"`
	ServiceSubnet      string        `json:"serviceSubnet"`
	LoadBalancerSubnet string        `json:"loadBalancerSubnet"`
	Machines           []MachineInfo `json:"machines"`
	// Cluster is the config with everything that was chosen for it.
	Cluster *cluster.Cluster `json:"-"`
}

// MachineInfo describes a machine.
type MachineInfo struct {
	Name string       `json:"name"`
	Role cluster.Role `json:"role"`
	// IP and PodCIDR are the first of IPs and PodCIDRs, which are one a
	// family.
	IP       string         `json:"ip"`
	PodCIDR  string         `json:"podCIDR"`
	IPs      []netip.Addr   `json:"ips"`
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// PID of its init on the host; 0 when the machine is down.
	PID     int  `json:"pid,omitempty"`
	Running bool `json:"running"`
	// Paused: it runs, and stands still.
	Paused  bool      `json:"paused,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// APIServer is what a control plane that runs says of itself when there
	// are several: serving, away (not ready, or without a majority), gone
	// (starting), silent.
	APIServer string `json:"apiServer,omitempty"`
	// Trouble is what keeps its etcd member from serving; empty: nothing does.
	Trouble string `json:"trouble,omitempty"`
	// Kubelet says why the node's kubelet does not start; nil: it does.
	Kubelet *Kubelet `json:"kubelet,omitempty"`
	// CrashLoops are its processes, or itself, that keep ending.
	CrashLoops []CrashLoop `json:"crashLoops,omitempty"`
	// SetAside is what a damaged etcd member had before it was made anew from
	// the others; nil: nothing was, or somebody has removed it.
	SetAside *SetAside `json:"setAside,omitempty"`
}

// List describes every cluster of the host, by name.
func List(ctx context.Context) ([]Info, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	records, err := p.published()
	if err != nil {
		return nil, err
	}
	list := make([]Info, 0, len(records))
	for _, rec := range records {
		if rec.strange != "" {
			list = append(list, strangeInfo(rec))
			continue
		}
		info := p.describe(rec)
		askControlPlanes(ctx, rec, info)
		list = append(list, *info)
	}
	return list, nil
}

// strangeInfo is what little can be said about a cluster that is not ours to
// read.
func strangeInfo(rec *record) Info {
	n := rec.Cluster.Networking
	return Info{Name: rec.Cluster.Name, State: rec.strange, Created: rec.Created, NodeSubnet: n.NodeSubnet,
		PodSubnet: n.PodSubnet, ServiceSubnet: n.ServiceSubnet, LoadBalancerSubnet: n.LoadBalancerSubnet}
}

// Get describes one cluster; ErrNotFound.
func Get(ctx context.Context, name string) (*Info, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	rec, err := p.readRecord(name)
	if err != nil {
		return nil, err
	}
	info := p.describe(rec)
	askControlPlanes(ctx, rec, info)
	return info, nil
}

// published reads the records of all clusters, in the order of their names.
func (p Paths) published() ([]*record, error) { return p.records("*") }

// announced reads the records of clusters that are being built or taken away.
func (p Paths) announced() ([]*record, error) { return p.records(".*") }

func (p Paths) records(pattern string) ([]*record, error) {
	paths, err := filepath.Glob(filepath.Join(p.clusters(), pattern, "cluster.json"))
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	var records []*record
	for _, path := range paths {
		if strings.HasPrefix(filepath.Base(filepath.Dir(path)), ".") != strings.HasPrefix(pattern, ".") {
			continue // a pattern's star takes a leading dot
		}
		rec, err := readRecordAt(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // gone since the listing
		}
		if err != nil {
			// It keeps no other from being listed, made or started.
			rec = strangeRecord(path, err)
		}
		records = append(records, rec)
	}
	return records, nil
}

// strangeRecord is what can be read of a record that is of a newer schema or
// damaged: what it has, as far as that is known, is nobody else's.
func strangeRecord(path string, err error) *record {
	rec := &record{}
	if data, readErr := os.ReadFile(path); readErr == nil {
		// Into what fits; the rest may be anything.
		var fields struct{ Cluster, Created json.RawMessage }
		_ = json.Unmarshal(data, &fields)
		_ = json.Unmarshal(fields.Cluster, &rec.Cluster)
		_ = json.Unmarshal(fields.Created, &rec.Created)
	}
	rec.Cluster.Name = clusterOf(filepath.Base(filepath.Dir(path)))
	if _, err := rangesOf(rec.Cluster.Networking); err != nil {
		rec.Cluster.Networking = cluster.Networking{}
	}
	for range rec.Cluster.Nodes {
		rec.Machines = append(rec.Machines, machineRecord{})
	}
	var newer *Refusal
	rec.strange = Unreadable
	if errors.As(err, &newer) {
		rec.strange = Newer
	}
	return rec
}

func (p Paths) describe(rec *record) *Info {
	c := &rec.Cluster
	info := &Info{
		Name: c.Name, Created: rec.Created, Durability: c.Durability, PowerCut: powerCut[c.Durability], Restart: c.Restart, Endpoint: clientAddress(c), Cluster: c,
		NodeSubnet: c.Networking.NodeSubnet, PodSubnet: c.Networking.PodSubnet,
		ServiceSubnet: c.Networking.ServiceSubnet, LoadBalancerSubnet: c.Networking.LoadBalancerSubnet,
	}
	up, running, frozen := 0, 0, 0
	layout, _ := namespaces.Layout() // without one, nothing is frozen
	if proc, _, err := findProcess(p.supervisorState(c.Name)); err == nil {
		info.SupervisorPID = proc.PID
		proc.Close()
		up++
	}
	for _, m := range rec.Machines {
		mi := MachineInfo{Name: m.Name, Role: m.Role, IP: m.IPs[0].String(), PodCIDR: m.PodCIDRs[0].String(), IPs: m.IPs, PodCIDRs: m.PodCIDRs}
		if proc, state, err := findProcess(p.machineState(c.Name, m.Name)); err == nil {
			mi.PID, mi.Running, mi.Started = proc.PID, true, state.Started
			mi.Kubelet = p.kubeletTrouble(c.Name, m.Name, proc)
			mi.CrashLoops = p.crashLoops(c.Name, m.Name, proc)
			proc.Close()
			up++
			running++
			if mi.Paused = layout.Frozen(machineCgroup(c.Name, m.Name)); mi.Paused {
				frozen++
			}
		}
		mi.CrashLoops = append(mi.CrashLoops, p.machineCrashLoop(c.Name, m.Name, mi.Started)...)
		info.Machines = append(info.Machines, mi)
	}
	switch {
	case up == 0:
		info.State = Stopped
	case frozen > 0 && (frozen == running || len(rec.peers()) == 0):
		info.State = Paused
	case up == len(rec.Machines)+1 && frozen == 0:
		info.State = Running
	default:
		info.State = Degraded
	}
	p.describeTroubles(rec, info)
	return info
}

func (p Paths) describeTroubles(rec *record, info *Info) {
	name := rec.Cluster.Name
	all := p.troubles(rec)
	for _, t := range all {
		info.Trouble, info.Mend = t.Error(), p.mend(name, t)
		switch {
		case t.damaged && p.majorityWithout(rec, all):
			info.Mend = "the others are a majority: " + t.machine + " is made anew from them, by itself"
			if info.State == Running {
				info.State = Degraded
			}
		case t.damaged:
			info.State = Damaged
		case info.State == Running:
			info.State = Degraded
		}
	}
	for i := range info.Machines {
		m := &info.Machines[i]
		if (m.Kubelet != nil || len(m.CrashLoops) > 0) && info.State == Running {
			info.State = Degraded
		}
		m.SetAside = p.setAside(name, m.Name)
		for _, t := range all {
			if t.machine == m.Name {
				m.Trouble = t.Error()
			}
		}
	}
}

// powerCut says in plain words what each durability may cost.
var powerCut = map[cluster.Durability]string{
	cluster.Ephemeral: "may lose the last writes",
	cluster.Durable:   "loses nothing",
}

// runningControlPlane is the first control plane that runs and does not stand
// still, or the first one if none does.
func (p Paths) runningControlPlane(rec *record) string {
	layout, _ := namespaces.Layout() // without one, nothing is frozen
	for _, m := range rec.Machines {
		if m.Role != cluster.ControlPlaneRole || !p.runs(rec.Cluster.Name, m.Name) {
			continue
		}
		if !layout.Frozen(machineCgroup(rec.Cluster.Name, m.Name)) {
			return m.Name
		}
	}
	return rec.controlPlane().Name
}

// openMachine finds the running process 1 of a machine. An empty machine
// means the control plane's.
func (p Paths) openMachine(name, machine string) (*record, string, *namespaces.Process, error) {
	rec, err := p.readRecord(name)
	if err != nil {
		return nil, "", nil, err
	}
	if machine == "" {
		machine = p.runningControlPlane(rec)
	}
	if err := rec.has(machine); err != nil {
		return nil, "", nil, err
	}
	proc, _, err := findProcess(p.machineState(name, machine))
	if errors.Is(err, namespaces.ErrGone) {
		if err := p.meantToRun(name); err != nil {
			return nil, "", nil, err
		}
		err = ErrNotRunning
	}
	if err != nil {
		return nil, "", nil, fmt.Errorf("machine %q of cluster %q: %w", machine, name, err)
	}
	return rec, machine, proc, nil
}
