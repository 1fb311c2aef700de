package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/dataplane/fabric"
)

// pools are where clusters take their ranges from when the config does not
// say; those of the suite's own cluster are checked to be inside.
var pools = []netip.Prefix{
	netip.MustParsePrefix("10.96.0.0/11"), netip.MustParsePrefix("10.160.0.0/11"), netip.MustParsePrefix("10.192.0.0/10"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("172.28.0.0/14"),
	netip.MustParsePrefix("fd00:10::/32"), netip.MustParsePrefix("fd00:172::/32"), netip.MustParsePrefix("fd73::/16"),
}

// counter is a firewall that counts, at the devices that lead away from the
// host, packets from and to addresses of clusters, and requests for them
// by ARP and neighbour discovery.
type counter struct {
	conn  *nftables.Conn
	table *nftables.Table
	// chains by a name that says where they are.
	chains map[string]*nftables.Chain
	// watched are the prefixes that are counted.
	watched []netip.Prefix
}

// startCounter puts the counter at every device of this network namespace that
// is neither loopback nor a cluster's.
func startCounter() (c *counter, err error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("firewall counter: %w", err)
	}
	c = &counter{conn: conn, chains: map[string]*nftables.Chain{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("firewall counter: %w", err), conn.CloseLasting())
		}
	}()
	devices, own, err := away()
	if err != nil {
		return nil, err
	}
	for _, p := range pools {
		c.watched = append(c.watched, subtract(p, own)...)
	}
	c.table = conn.AddTable(&nftables.Table{
		Name: fmt.Sprintf("skiff-e2e-uplink-%d", os.Getpid()), Family: nftables.TableFamilyNetdev,
	})
	for _, device := range devices {
		for _, hook := range []struct {
			name string
			num  *nftables.ChainHook
		}{{"to", nftables.ChainHookEgress}, {"from", nftables.ChainHookIngress}} {
			chain := conn.AddChain(&nftables.Chain{
				Name: hook.name + "-" + device, Table: c.table, Type: nftables.ChainTypeFilter,
				Hooknum: hook.num, Priority: nftables.ChainPriorityFilter, Device: device,
			})
			c.chains[hook.name+" "+device] = chain
			for _, p := range c.watched {
				for name, match := range matches(p) {
					conn.AddRule(&nftables.Rule{Table: c.table, Chain: chain, Exprs: append(match, &expr.Counter{}), UserData: []byte(name)})
				}
			}
			// All at once, the answers would not fit into the socket's buffer.
			if err := conn.Flush(); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// close removes the counter.
func (c *counter) close() error {
	c.conn.DelTable(c.table)
	return errors.Join(c.conn.Flush(), c.conn.CloseLasting())
}

// covers says whether all addresses of a prefix are counted, apart from
// those of the host's own networks.
func (c *counter) covers(p netip.Prefix) bool {
	return slices.ContainsFunc(c.watched, func(w netip.Prefix) bool { return w.Bits() <= p.Bits() && w.Contains(p.Addr()) })
}

// seen lists what was counted, in words; nothing if no packet was.
func (c *counter) seen() ([]string, error) {
	var seen []string
	for where, chain := range c.chains {
		rules, err := c.conn.GetRules(c.table, chain)
		if err != nil {
			return nil, fmt.Errorf("read the firewall counter: %w", err)
		}
		if len(rules) == 0 {
			return nil, fmt.Errorf("read the firewall counter: no rule is left for packets %s", where)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if n, ok := e.(*expr.Counter); ok && n.Packets > 0 {
					seen = append(seen, fmt.Sprintf("%d packets %s with %s", n.Packets, where, r.UserData))
				}
			}
		}
	}
	slices.Sort(seen)
	return seen, nil
}

// matches are the packets that concern a prefix, by what they are.
func matches(p netip.Prefix) map[string][]expr.Any {
	const (
		ethARP, ethIPv4, ethIPv6 = unix.ETH_P_ARP, unix.ETH_P_IP, unix.ETH_P_IPV6
		// Where the wanted address is in an ARP request for IPv4, and in a
		// neighbour solicitation after the IPv6 header.
		arpTarget, solicited = 24, 48
	)
	if p.Addr().Is4() {
		return map[string][]expr.Any{
			"source " + p.String():      match(ethIPv4, 12, p),
			"destination " + p.String(): match(ethIPv4, 16, p),
			"ARP request " + p.String(): match(ethARP, arpTarget, p),
		}
	}
	return map[string][]expr.Any{
		"source " + p.String():      match(ethIPv6, 8, p),
		"destination " + p.String(): match(ethIPv6, 24, p),
		"neighbour solicitation " + p.String(): append(match(ethIPv6, solicited, p),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 1}, // next header
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 40, Len: 1}, // type
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{135}}),
	}
}

// match compares the address at an offset of the network header.
func match(protocol uint16, offset uint32, p netip.Prefix) []expr.Any {
	size := uint32(p.Addr().BitLen() / 8)
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, protocol)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// away lists the devices that lead away from the host, and what the host itself
// has there: its networks and its nameservers.
func away() (devices []string, own []netip.Prefix, err error) {
	links, err := fabric.Dump(netlink.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		if name == "lo" || strings.HasPrefix(name, "skf") {
			continue
		}
		devices = append(devices, name)
		routes, err := fabric.Dump(func() ([]netlink.Route, error) { return netlink.RouteList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, nil, fmt.Errorf("list routes of %s: %w", name, err)
		}
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			bits, _ := r.Dst.Mask.Size()
			if a, ok := netip.AddrFromSlice(r.Dst.IP); ok && bits > 1 { // a default route in two halves is one
				own = append(own, netip.PrefixFrom(a.Unmap(), bits))
			}
		}
	}
	nameservers, err := nameservers("/etc/resolv.conf")
	return devices, append(own, nameservers...), err
}

// nameservers are those of a resolv.conf, which may be missing.
func nameservers(path string) ([]netip.Prefix, error) {
	conf, err := dns.ClientConfigFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read nameservers: %w", err)
	}
	var all []netip.Prefix
	for _, server := range conf.Servers {
		if a, err := netip.ParseAddr(server); err == nil {
			a = a.Unmap().WithZone("")
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return all, nil
}

// subtract cuts a prefix into those that have nothing of own.
func subtract(p netip.Prefix, own []netip.Prefix) []netip.Prefix {
	i := slices.IndexFunc(own, p.Overlaps)
	switch {
	case i < 0:
		return []netip.Prefix{p}
	case own[i].Bits() <= p.Bits():
		return nil
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	upper := p.Addr().AsSlice()
	upper[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(upper)
	return append(subtract(low, own), subtract(netip.PrefixFrom(a, p.Bits()+1), own)...)
}
