package supervise

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// record is cluster.json: the config with everything chosen that it left
// open, and the addresses. It never changes after the cluster is published.
type record struct {
	// Schema of the cluster's directory, see readRecordAt.
	Schema  int             `json:"schema"`
	Cluster cluster.Cluster `json:"cluster"`
	// ID tells this cluster from others that had its name.
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	// MTU of every cable: what leaves the host whole, so that packets to the
	// outside need no fragments.
	MTU      int             `json:"mtu"`
	Machines []machineRecord `json:"machines"`
	// Verbosity of what runs in the machines, as klog counts it.
	Verbosity int `json:"verbosity,omitempty"`

	// strange is set of a record that is only partly read: see strangeRecord.
	strange State
}

// schema is what this release writes and the most that it reads; directories
// of before there were numbers have none. It goes up when an older release
// would misread the directory.
const schema = 1

// machineRecord belongs to the node of the same index.
type machineRecord struct {
	Name string       `json:"name"`
	Role cluster.Role `json:"role"`
	// IPs and PodCIDRs are one a family, the primary one's first.
	IPs      []netip.Addr   `json:"ips"`
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
}

// newRecord gives every machine of c its addresses. All ranges of c are set.
func newRecord(c *cluster.Cluster, mtu int, now time.Time) (*record, error) {
	ranges, err := rangesOf(c.Networking)
	if err != nil {
		return nil, err
	}
	rec := &record{Schema: schema, Cluster: *c, MTU: mtu, ID: strings.ToLower(rand.Text()), Created: now.UTC().Truncate(time.Second)}
	for i, n := range c.Nodes {
		ips, cidrs, err := ranges.Node(i)
		if err != nil {
			return nil, &Refusal{Err: err, Help: "use a larger range: every machine takes an address of nodeSubnet and a /24 or /64 of podSubnet"}
		}
		rec.Machines = append(rec.Machines, machineRecord{Name: n.Name, Role: n.Role, IPs: ips, PodCIDRs: cidrs})
	}
	return rec, nil
}

// nth address of a range.
func nth(p netip.Prefix, n int) (netip.Addr, error) {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	if !p.Contains(a) {
		return netip.Addr{}, fmt.Errorf("%s has no address %d", p, n)
	}
	return a, nil
}

// serviceIPs are the n-th addresses of the service ranges, the primary
// family's first.
func (r *record) serviceIPs(n int) ([]netip.Addr, error) {
	ranges, err := rangesOf(r.Cluster.Networking)
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, p := range ranges.ServiceSubnets {
		ip, err := nth(p, n)
		if err != nil {
			return nil, &Refusal{Field: "networking.serviceSubnet", Err: err}
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

// controlPlane is the first machine with that role.
func (r *record) controlPlane() machineRecord {
	for _, m := range r.Machines {
		if m.Role == cluster.ControlPlaneRole {
			return m
		}
	}
	return machineRecord{}
}

// controlPlanes are the machines with that role.
func (r *record) controlPlanes() []machineRecord {
	return slices.DeleteFunc(slices.Clone(r.Machines), func(m machineRecord) bool { return m.Role != cluster.ControlPlaneRole })
}

// peers are all control-plane machines if there are several, else none.
func (r *record) peers() []machine.Peer {
	all := r.controlPlanes()
	if len(all) == 1 {
		return nil
	}
	var peers []machine.Peer
	for _, m := range all {
		peers = append(peers, machine.Peer{Name: m.Name, IPs: m.IPs})
	}
	return peers
}

// controls says whether the machine of that name is a control plane.
func (r *record) controls(name string) bool {
	return slices.ContainsFunc(r.Machines, func(m machineRecord) bool { return m.Name == name && m.Role == cluster.ControlPlaneRole })
}

// has is ErrNoMachine when there is none of that name.
func (r *record) has(name string) error {
	for _, m := range r.Machines {
		if m.Name == name {
			return nil
		}
	}
	return fmt.Errorf("machine %q of cluster %q: %w", name, r.Cluster.Name, ErrNoMachine)
}

// readable refuses a cluster of a newer schema, whole or half-made. It is
// asked before anything is touched.
func (p Paths) readable(name string) error {
	for _, dir := range []string{p.Cluster(name), p.aside(name), p.deleted(name)} {
		_, err := readRecordAt(filepath.Join(dir, "cluster.json"))
		var newer *Refusal
		if errors.As(err, &newer) {
			return err
		}
	}
	return nil
}

// readRecord is ErrNotFound when the cluster is not published.
func (p Paths) readRecord(name string) (*record, error) {
	rec, err := readRecordAt(p.record(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cluster %q: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read cluster %q: %w", name, err)
	}
	return rec, nil
}

func readRecordAt(path string) (*record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rec := &record{}
	// The number alone first: the rest may be anything.
	var only struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(data, &only); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if only.Schema > schema {
		return nil, &Refusal{
			Err:  fmt.Errorf("%s was made by a newer skiff: its schema is %d, this one reads up to %d", filepath.Dir(path), only.Schema, schema),
			Help: "use the skiff that made it, or a newer one; nothing was changed",
		}
	}
	if err := json.Unmarshal(data, rec); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cluster.SetDefaults(&rec.Cluster) // sets the names of the nodes
	return rec, nil
}

// processState names a process for as long as the host runs.
type processState struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	Boot      string `json:"boot"`
	// Sockets are descriptor numbers of handed-over sockets in it.
	Sockets map[string]int `json:"sockets,omitempty"`
	Started time.Time      `json:"started"`
}

func writeProcess(path string, p *namespaces.Process, sockets map[string]int) error {
	return writeJSON(path, processState{PID: p.PID, StartTime: p.StartTime, Boot: bootID(), Sockets: sockets, Started: time.Now().UTC()})
}

// findProcess opens the process that path names; namespaces.ErrGone when it
// has ended, or was never started.
func findProcess(path string) (*namespaces.Process, *processState, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, namespaces.ErrGone
	}
	if err != nil {
		return nil, nil, err
	}
	state := &processState{}
	if json.Unmarshal(data, state) != nil || state.PID <= 0 || state.Boot != bootID() {
		return nil, nil, namespaces.ErrGone
	}
	p, err := namespaces.Find(state.PID, state.StartTime)
	return p, state, err
}

// bootID differs after each start of the host: process ids and start times
// mean nothing across it.
func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// writeJSON replaces path by one rename.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, append(data, '\n'))
}

// writeFile replaces a file of root's alone by one rename.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
