package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// reservation is one sandbox's address, kept as the file <address>.json.
type reservation struct {
	ID        string     `json:"id"`
	IP        netip.Addr `json:"ip"`
	HostPorts []HostPort `json:"hostPorts,omitempty"`
}

// ErrNoAddress says that every address of the node's pod range is taken.
var ErrNoAddress = errors.New("no free pod address")

// ipam hands out a node's pod addresses, round robin. Its user locks it.
type ipam struct {
	dir  string
	cidr netip.Prefix
	// first and last are the addresses that pods may get: not the range's
	// own address, the first usable one and the broadcast address.
	first, last netip.Addr
	// previous was handed out last; the search goes on behind it.
	previous netip.Addr
	byID     map[string]reservation
	byIP     map[netip.Addr]string
}

// lastFile remembers the address that was handed out last.
const lastFile = "last"

func openIPAM(dir string, cidr netip.Prefix) (*ipam, error) {
	cidr = cidr.Masked()
	if !cidr.Addr().Is4() || cidr.Bits() > 29 {
		return nil, fmt.Errorf("pod range %s: want an IPv4 range of at least 8 addresses", cidr)
	}
	m := &ipam{dir: dir, cidr: cidr, byID: map[string]reservation{}, byIP: map[netip.Addr]string{}}
	m.first = cidr.Addr().Next().Next()
	m.last = lastOf(cidr).Prev()
	m.previous = m.last
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open pod addresses: %w", err)
	}
	if err := m.read(); err != nil {
		return nil, fmt.Errorf("read pod addresses: %w", err)
	}
	return m, nil
}

func (m *ipam) read() error {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, isReservation := strings.CutSuffix(e.Name(), ".json")
		if !isReservation {
			continue
		}
		data, err := os.ReadFile(filepath.Join(m.dir, e.Name()))
		if err != nil {
			return err
		}
		var r reservation
		if err := json.Unmarshal(data, &r); err != nil || r.ID == "" || r.IP.String() != name || !m.cidr.Contains(r.IP) {
			// Half written by a process that was killed, or of another range:
			// no pod of ours has it.
			if err := os.Remove(filepath.Join(m.dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		m.byID[r.ID], m.byIP[r.IP] = r, r.ID
	}
	if data, err := os.ReadFile(filepath.Join(m.dir, lastFile)); err == nil {
		if a, err := netip.ParseAddr(string(data)); err == nil && m.usable(a) {
			m.previous = a
		}
	}
	return nil
}

func (m *ipam) usable(a netip.Addr) bool {
	return m.first.Compare(a) <= 0 && a.Compare(m.last) <= 0
}

// reserve takes the next free address for id. ports says what host ports
// come with it.
func (m *ipam) reserve(id string, ports func(netip.Addr) ([]HostPort, error)) (netip.Addr, []HostPort, error) {
	addr, err := m.next()
	if err != nil {
		return netip.Addr{}, nil, err
	}
	r := reservation{ID: id, IP: addr}
	if r.HostPorts, err = ports(addr); err != nil {
		return netip.Addr{}, nil, err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	if err := os.WriteFile(m.file(addr), data, 0o600); err != nil {
		return netip.Addr{}, nil, errors.Join(fmt.Errorf("reserve pod address: %w", err), m.unlink(addr))
	}
	// Losing this one costs no more than an early reuse after a crash.
	if err := os.WriteFile(filepath.Join(m.dir, lastFile), []byte(addr.String()), 0o600); err != nil {
		return netip.Addr{}, nil, errors.Join(fmt.Errorf("reserve pod address: %w", err), m.unlink(addr))
	}
	m.byID[id], m.byIP[addr], m.previous = r, id, addr
	return addr, r.HostPorts, nil
}

// next returns the first free address behind the previous one.
func (m *ipam) next() (netip.Addr, error) {
	a := m.previous
	for {
		if a = a.Next(); !m.usable(a) {
			a = m.first
		}
		if _, taken := m.byIP[a]; !taken {
			return a, nil
		}
		if a == m.previous {
			return netip.Addr{}, fmt.Errorf("%w: all %d of %s are in use", ErrNoAddress, len(m.byIP), m.cidr)
		}
	}
}

func (m *ipam) get(id string) (reservation, bool) {
	r, ok := m.byID[id]
	return r, ok
}

// release gives the address of id back, if it has one.
func (m *ipam) release(id string) error {
	r, ok := m.byID[id]
	if !ok {
		return nil
	}
	if err := m.unlink(r.IP); err != nil {
		return err
	}
	delete(m.byID, id)
	delete(m.byIP, r.IP)
	return nil
}

func (m *ipam) unlink(a netip.Addr) error {
	if err := os.Remove(m.file(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release pod address: %w", err)
	}
	return nil
}

// all returns the reservations by address.
func (m *ipam) all() []reservation {
	var rs []reservation
	for _, r := range m.byID {
		rs = append(rs, r)
	}
	slices.SortFunc(rs, func(a, b reservation) int { return a.IP.Compare(b.IP) })
	return rs
}

func (m *ipam) file(a netip.Addr) string { return filepath.Join(m.dir, a.String()+".json") }

// lastOf is the last address of an IPv4 range.
func lastOf(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}
