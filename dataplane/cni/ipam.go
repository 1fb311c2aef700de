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

// reservation is a sandbox's addresses, one in each of the node's pod ranges,
// kept as the file <first address>.json.
type reservation struct {
	ID        string       `json:"id"`
	IPs       []netip.Addr `json:"ips"`
	HostPorts []HostPort   `json:"hostPorts,omitempty"`
}

// ErrNoAddress says that every address of the node's pod range is taken.
var ErrNoAddress = errors.New("no free pod address")

// ipam hands out a node's pod addresses, round robin. Its user locks it.
type ipam struct {
	dir   string
	pools []*pool
	byID  map[string]reservation
}

// pool is a pod range.
type pool struct {
	cidr netip.Prefix
	// first and last are the addresses that pods may get: not the range's
	// own address, the first usable one and the last, IPv4's broadcast address.
	first, last netip.Addr
	// previous was handed out last; the search goes on behind it.
	previous netip.Addr
	taken    map[netip.Addr]bool
}

// lastFile remembers the addresses that were handed out last.
const lastFile = "last"

func openIPAM(dir string, cidrs []netip.Prefix) (*ipam, error) {
	m := &ipam{dir: dir, byID: map[string]reservation{}}
	if len(cidrs) == 0 {
		return nil, errors.New("pod range: none given")
	}
	for _, cidr := range cidrs {
		cidr = cidr.Masked()
		if cidr.Addr().BitLen()-cidr.Bits() < 3 {
			return nil, fmt.Errorf("pod range %s: want at least 8 addresses", cidr)
		}
		p := &pool{cidr: cidr, first: cidr.Addr().Next().Next(), last: lastOf(cidr).Prev(), taken: map[netip.Addr]bool{}}
		p.previous = p.last
		m.pools = append(m.pools, p)
	}
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
		if err := json.Unmarshal(data, &r); err != nil || r.ID == "" || !m.mine(r.IPs) || r.IPs[0].String() != name {
			// Half written by a process that was killed, or of another range:
			// no pod of ours has it.
			if err := os.Remove(filepath.Join(m.dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		m.keep(r)
	}
	data, err := os.ReadFile(filepath.Join(m.dir, lastFile))
	if err != nil {
		return nil // it only makes reuse come late
	}
	for i, text := range strings.Fields(string(data)) {
		if a, err := netip.ParseAddr(text); err == nil && i < len(m.pools) && m.pools[i].usable(a) {
			m.pools[i].previous = a
		}
	}
	return nil
}

// mine says whether addrs are one of each pool.
func (m *ipam) mine(addrs []netip.Addr) bool {
	if len(addrs) != len(m.pools) {
		return false
	}
	for i, a := range addrs {
		if !m.pools[i].cidr.Contains(a) {
			return false
		}
	}
	return true
}

func (m *ipam) keep(r reservation) {
	m.byID[r.ID] = r
	for i, a := range r.IPs {
		m.pools[i].taken[a] = true
	}
}

func (p *pool) usable(a netip.Addr) bool {
	return p.first.Compare(a) <= 0 && a.Compare(p.last) <= 0
}

// reserve takes the next free addresses for id. ports says what host ports
// come with them.
func (m *ipam) reserve(id string, ports func([]netip.Addr) ([]HostPort, error)) (reservation, error) {
	r := reservation{ID: id}
	var last []string
	for _, p := range m.pools {
		addr, err := p.next()
		if err != nil {
			return reservation{}, err
		}
		r.IPs, last = append(r.IPs, addr), append(last, addr.String())
	}
	var err error
	if r.HostPorts, err = ports(r.IPs); err != nil {
		return reservation{}, err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return reservation{}, err
	}
	if err := os.WriteFile(m.file(r), data, 0o600); err != nil {
		return reservation{}, errors.Join(fmt.Errorf("reserve pod address: %w", err), m.unlink(r))
	}
	// Losing this one costs no more than an early reuse after a crash.
	if err := os.WriteFile(filepath.Join(m.dir, lastFile), []byte(strings.Join(last, " ")), 0o600); err != nil {
		return reservation{}, errors.Join(fmt.Errorf("reserve pod address: %w", err), m.unlink(r))
	}
	m.keep(r)
	for i, p := range m.pools {
		p.previous = r.IPs[i]
	}
	return r, nil
}

// next returns the first free address behind the previous one.
func (p *pool) next() (netip.Addr, error) {
	a := p.previous
	for {
		if a = a.Next(); !p.usable(a) {
			a = p.first
		}
		if !p.taken[a] {
			return a, nil
		}
		if a == p.previous {
			return netip.Addr{}, fmt.Errorf("%w: all %d of %s are in use", ErrNoAddress, len(p.taken), p.cidr)
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
	if err := m.unlink(r); err != nil {
		return err
	}
	delete(m.byID, id)
	for i, a := range r.IPs {
		delete(m.pools[i].taken, a)
	}
	return nil
}

func (m *ipam) unlink(r reservation) error {
	if err := os.Remove(m.file(r)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give pod address back: %w", err)
	}
	return nil
}

func (m *ipam) all() []reservation {
	var rs []reservation
	for _, r := range m.byID {
		rs = append(rs, r)
	}
	slices.SortFunc(rs, func(a, b reservation) int { return a.IPs[0].Compare(b.IPs[0]) })
	return rs
}

func (m *ipam) file(r reservation) string {
	return filepath.Join(m.dir, r.IPs[0].String()+".json")
}

// lastOf is the last address of a range.
func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}
