package fabric

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// What pods and nodes may send beyond the host is decided by an nftables table
// of the cluster's own, one a family, as the host forwards each by itself:
//
//	closed  the host does not forward (the default): whatever is for nobody on
//	        this host is refused at once, and should forwarding come on
//	        behind our back, nothing is forwarded.
//	open    the host forwards: leaves by devices that are no cluster's,
//	        masqueraded, answers come back, and nothing else comes in.
//
// Closed mode needs no connection tracking, so that a host that does not
// forward does not pay for it.
type egressMode string

const (
	egressClosed egressMode = "closed"
	egressOpen   egressMode = "open"
)

// egressTable is the name of the cluster's tables.
func (f *Fabric) egressTable() string { return "skiff-" + f.cfg.Cluster }

// forwardingSetting turns forwarding on.
func forwardingSetting(family Family) string {
	if family == IPv4 {
		return "net.ipv4.ip_forward"
	}
	return "net.ipv6.conf.all.forwarding"
}

// EgressHint says what to run on the host so that pods reach beyond it, or
// nothing if they do.
func (f *Fabric) EgressHint() string {
	var closed, commands []string
	for _, family := range f.families() {
		if mode, err := f.egressMode(family); err != nil || mode == egressOpen {
			continue
		}
		closed = append(closed, fmt.Sprintf("IPv%d", family))
		commands = append(commands, forwardingSetting(family)+"=1")
	}
	if len(closed) == 0 {
		return ""
	}
	hint := "pods reach this host, but nothing beyond it"
	if len(f.families()) > 1 {
		hint += " by " + strings.Join(closed, " and ")
	}
	hint += ": the host does not forward packets. To change that: sysctl -w " + strings.Join(commands, " ")
	if slices.Contains(closed, "IPv6") {
		hint += " (a host that hears of its own route from a router also needs accept_ra=2 on that device)"
	}
	return hint
}

// egressMode asks for IPv4 the cluster's device, which follows
// net.ipv4.ip_forward, or, before it is made, what a new device would get;
// for IPv6 only the setting for all devices counts.
func (f *Fabric) egressMode(family Family) (egressMode, error) {
	paths := []string{"ipv4/conf/" + f.HostDevice(), "ipv4/conf/default"}
	if family == IPv6 {
		paths = []string{"ipv6/conf/all"}
	}
	var value []byte
	err := Do(f.cfg.HostNetns, func() (err error) {
		for _, path := range paths {
			value, err = os.ReadFile("/proc/sys/net/" + path + "/forwarding")
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the host's forwarding of IPv%d: %w", family, err)
	}
	if bytes.Equal(bytes.TrimSpace(value), []byte("1")) {
		return egressOpen, nil
	}
	return egressClosed, nil
}

// EnsureEgress brings the cluster's nftables tables in step with the host's
// forwarding. EnsureSwitch includes it.
func (f *Fabric) EnsureEgress() error {
	var want []ruleset
	for _, family := range f.families() {
		mode, err := f.egressMode(family)
		if err != nil {
			return err
		}
		want = append(want, f.egressRules(family, mode))
	}
	return ensureTables(f.cfg.HostNetns, want...)
}

// Run keeps egress in step with the host's forwarding until ctx ends: who runs
// `sysctl -w net.ipv4.ip_forward=1` has egress the next moment. EnsureSwitch
// comes before.
func (f *Fabric) Run(ctx context.Context) error {
	const what = "watch the host's forwarding"
	host, err := os.Open(f.cfg.HostNetns)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer host.Close()
	events, err := nl.SubscribeAt(netns.NsHandle(host.Fd()), netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return Follow(ctx, what, events, f.EnsureEgress)
}

func (f *Fabric) removeEgress() error {
	return withTables(f.cfg.HostNetns, func(conn *nftables.Conn) error {
		var errs []error
		for _, family := range f.families() {
			conn.DelTable(&nftables.Table{Name: f.egressTable(), Family: tableFamily(family)})
			if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("remove nftables table %s: %w", f.egressTable(), err))
			}
		}
		return errors.Join(errs...)
	})
}

func (f *Fabric) egressRules(family Family, mode egressMode) ruleset {
	ours := matchDevice(expr.MetaKeyIIFNAME, f.HostDevice())
	forward := chain{Chain: nftables.Chain{
		Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter}}
	toOurs := matchDevice(expr.MetaKeyOIFNAME, f.HostDevice())
	if mode == egressClosed {
		refuse := chain{Chain: nftables.Chain{
			Name: "prerouting", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter}}
		for _, answer := range unreachableAnswers(family) {
			refuse.rules = append(refuse.rules, rule(ours, notForThisHost(), answer))
		}
		forward.rules = [][]expr.Any{rule(ours, drop()), rule(toOurs, drop())}
		return ruleset{f.egressTable(), family, []chain{refuse, forward}}
	}
	outward := noCluster(expr.MetaKeyOIFNAME)
	forward.rules = [][]expr.Any{
		// What connection tracking cannot make out would leave with a pod's
		// own address.
		rule(ours, outward, connection(expr.CtStateBitINVALID), drop()),
		rule(toOurs, noCluster(expr.MetaKeyIIFNAME), connection(expr.CtStateBitINVALID|expr.CtStateBitNEW|expr.CtStateBitUNTRACKED), drop()),
	}
	masquerade := chain{Chain: nftables.Chain{
		Name: "postrouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource}}
	masquerade.rules = [][]expr.Any{rule(ours, outward, []expr.Any{&expr.Masq{}})}
	return ruleset{f.egressTable(), family, []chain{forward, masquerade}}
}

// unreachableAnswers refuse what is for nobody: IPv4 with "network is
// unreachable". Of the codes that say so it is one that ends connected UDP as
// well: clients do not wait for a timeout. IPv6 has none that does for both
// (see refuseNobody), so that TCP is reset, and all else "permission denied".
func unreachableAnswers(family Family) [][]expr.Any {
	const (
		netProhibited   = 9 // ICMP
		adminProhibited = 1 // ICMPv6
	)
	if family == IPv4 {
		return [][]expr.Any{reject(netProhibited)}
	}
	return [][]expr.Any{rule(matchTCP(), resetTCP()), reject(adminProhibited)}
}
