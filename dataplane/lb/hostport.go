package lb

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb/switchnat"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// HostPort is a port of the node that leads to a pod on it.
type HostPort struct {
	// Protocol is "tcp", "udp" or "sctp".
	Protocol string
	// HostIP is the one address that has the port; an unspecified address
	// means all of the node's of PodIP's family.
	HostIP netip.Addr
	Port   uint16
	PodIP  netip.Addr
	// PodPort is where it leads.
	PodPort uint16
}

// hostPorts are the host ports of a node. Sockets of the node and its pods
// find them beside the services; packets from elsewhere are translated at the
// node's uplink, where a program is only while there are any.
type hostPorts struct {
	frontends map[table.Key]table.Frontend
	// claimants have the keys, each one its own.
	claimants map[table.Key]*known
	// uplink is nil while there is no program at the uplink.
	uplink *target
}

// SetHostPorts makes ports all host ports of the node. Called before Run with
// those of the pods that live on, it changes nothing for them.
func (l *Loader) SetHostPorts(ports []HostPort) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := map[table.Key]table.Frontend{}
	for _, p := range ports {
		for _, f := range l.frontendsOf(p) {
			wanted[f.Key] = f
		}
	}
	var errs []error
	for key := range l.hostPorts.frontends {
		if _, ok := wanted[key]; !ok {
			errs = append(errs, l.dropHostPort(key))
		}
	}
	for _, f := range wanted {
		errs = append(errs, l.putHostPort(f))
	}
	return errors.Join(append(errs, l.uplink())...)
}

// HostPorts adds or takes away host ports. A port that another pod has by now
// stays with that pod.
func (l *Loader) HostPorts(ports []HostPort, added bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, p := range ports {
		for _, f := range l.frontendsOf(p) {
			if added {
				errs = append(errs, l.putHostPort(f))
			} else if have, ok := l.hostPorts.frontends[f.Key]; ok && have.Backends[0] == f.Backends[0] {
				errs = append(errs, l.dropHostPort(f.Key))
			}
		}
	}
	return errors.Join(append(errs, l.uplink())...)
}

// frontendsOf are the addresses on which a port answers.
func (l *Loader) frontendsOf(p HostPort) []table.Frontend {
	f := table.Frontend{Backends: []netip.AddrPort{netip.AddrPortFrom(p.PodIP, p.PodPort)}}
	f.Key = table.Key{Addr: p.HostIP, Port: p.Port, Proto: inet.TCP}
	switch p.Protocol {
	case "udp":
		f.Proto = inet.UDP
	case "sctp":
		f.Proto = inet.SCTP
	}
	family := familyOf(p.PodIP)
	if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
		if familyOf(p.HostIP) != family {
			return nil
		}
		f.NodeOnly = p.HostIP.IsLoopback()
		if f.NodeOnly && !loopbackServes(f.Proto) {
			return nil
		}
		return []table.Frontend{f}
	}
	var out []table.Frontend
	for _, a := range l.cfg.NodeIPs {
		if familyOf(a) == family {
			f.Addr = a
			out = append(out, f)
		}
	}
	if !loopbackServes(f.Proto) {
		return out
	}
	f.Addr, f.NodeOnly = loopbackOf(family), true
	return append(out, f)
}

// deviceOf is the name of the device that has an address; empty if none has.
func deviceOf(addr netip.Addr) (string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("find the device of %s: %w", addr, err)
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // gone meanwhile
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == addr {
				return i.Name, nil
			}
		}
	}
	return "", nil
}

// claimant is who has the key of a host port; no Service has its name, whose
// namespace is empty.
func (h *hostPorts) claimant(key table.Key) *known {
	if h.claimants == nil {
		h.claimants = map[table.Key]*known{}
	}
	k := h.claimants[key]
	if k == nil {
		k = &known{name: types.NamespacedName{Name: "host port " + key.String()}}
		h.claimants[key] = k
	}
	return k
}

func (l *Loader) putHostPort(f table.Frontend) error {
	node := l.targets[0]
	claimant := l.hostPorts.claimant(f.Key)
	_, taken, _, _ := node.claims.settle(claimant, []table.Frontend{f})
	if owner, ok := taken[f.Key]; ok {
		// It does not wait: whoever asked asks again.
		node.claims.settle(claimant, nil)
		delete(l.hostPorts.claimants, f.Key)
		return fmt.Errorf("host port %s: served by Service %s already", f.Key, owner)
	}
	l.hostPorts.frontends[f.Key] = f
	unserved := l.servePackets(node, f)
	_, err := node.table.Set(f)
	l.departures.add(node, node.table.Departed())
	return errors.Join(unserved, err)
}

func (l *Loader) dropHostPort(key table.Key) error {
	node := l.targets[0]
	_, _, _, freed := node.claims.settle(l.hostPorts.claimant(key), nil)
	l.feed.touch(freed...)
	delete(l.hostPorts.claimants, key)
	delete(l.hostPorts.frontends, key)
	err := node.table.Delete(key)
	l.departures.add(node, node.table.Departed())
	return err
}

// uplink brings the node's uplink in line with the host ports.
func (l *Loader) uplink() error {
	if l.cfg.Uplink == "" || l.cfg.PinDir == "" {
		return nil
	}
	cfg := switchnat.Config{Device: l.cfg.Uplink, PinDir: uplinkPins(l.cfg.PinDir)}
	var want []table.Frontend
	for _, f := range l.hostPorts.frontends {
		if !f.NodeOnly {
			want = append(want, f)
		}
	}
	if len(want) == 0 {
		return l.closeUplink(cfg)
	}
	if l.hostPorts.uplink == nil {
		if err := switchnat.Load(cfg); err != nil {
			return fmt.Errorf("host ports: %w", err)
		}
		t, err := openTranslated("uplink", cfg.PinDir)
		if err != nil {
			return fmt.Errorf("host ports: %w", err)
		}
		l.hostPorts.uplink = t
	}
	uplink := l.hostPorts.uplink
	var errs []error
	for key, err := range uplink.table.Replace(want) {
		errs = append(errs, fmt.Errorf("host port %s: %w", key, err))
	}
	// UDP flows to pods that are gone.
	forgotten, err := uplink.flows.Forget(uplink.table.Departed())
	if err == nil && forgotten > 0 {
		err = uplink.table.CountForgotten(forgotten)
	}
	if err != nil {
		err = fmt.Errorf("host ports: %w", err)
	}
	return errors.Join(append(errs, err)...)
}

// closeUplink takes the program away, also one of an earlier process.
func (l *Loader) closeUplink(cfg switchnat.Config) error {
	if l.hostPorts.uplink != nil {
		if err := l.hostPorts.uplink.close(); err != nil {
			return fmt.Errorf("host ports: %w", err)
		}
		l.hostPorts.uplink = nil
	} else if _, err := os.Stat(cfg.PinDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := switchnat.Remove(cfg); err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	return removePin(cfg.PinDir)
}

// uplinkPins is the directory of the maps at the uplink.
func uplinkPins(dir string) string { return filepath.Join(dir, "hostports") }
