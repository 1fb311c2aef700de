package fabric

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// What pods and nodes may send beyond the host is decided by one nftables
// table of the cluster's own:
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

// egressTable is the name of the cluster's table.
func (f *Fabric) egressTable() string { return "skiff-" + f.cfg.Cluster }

// EgressHint says what to run on the host so that pods reach beyond it, or
// nothing if they do.
func (f *Fabric) EgressHint() string {
	mode, err := f.egressMode()
	if err != nil || mode == egressOpen {
		return ""
	}
	return "pods reach this host, but nothing beyond it: the host does not forward packets. To change that: sysctl -w net.ipv4.ip_forward=1"
}

// egressMode asks the cluster's device, which follows net.ipv4.ip_forward, or,
// before it is made, what a new device would get.
func (f *Fabric) egressMode() (egressMode, error) {
	var value []byte
	err := Do(f.cfg.HostNetns, func() (err error) {
		for _, device := range []string{f.HostDevice(), "default"} {
			value, err = os.ReadFile("/proc/sys/net/ipv4/conf/" + device + "/forwarding")
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the host's forwarding: %w", err)
	}
	if bytes.Equal(bytes.TrimSpace(value), []byte("1")) {
		return egressOpen, nil
	}
	return egressClosed, nil
}

// EnsureEgress brings the cluster's nftables table in step with the host's
// forwarding. EnsureSwitch includes it.
func (f *Fabric) EnsureEgress() error {
	mode, err := f.egressMode()
	if err != nil {
		return err
	}
	return f.withTables(func(conn *nftables.Conn) error {
		rules := f.egressRules(mode)
		have, err := installed(conn, f.egressTable())
		if err != nil {
			return fmt.Errorf("read nftables table %s: %w", f.egressTable(), err)
		}
		if have == rules.digest() {
			return nil
		}
		rules.replace(conn)
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("write nftables table %s: %w", f.egressTable(), err)
		}
		return nil
	})
}

// Run keeps egress in step with the host's forwarding until ctx ends: who runs
// `sysctl -w net.ipv4.ip_forward=1` has egress the next moment. EnsureSwitch
// comes before.
func (f *Fabric) Run(ctx context.Context) error {
	host, err := os.Open(f.cfg.HostNetns)
	if err != nil {
		return fmt.Errorf("watch the host's forwarding: %w", err)
	}
	defer host.Close()
	events, err := nl.SubscribeAt(netns.NsHandle(host.Fd()), netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_NETCONF)
	if err != nil {
		return fmt.Errorf("watch the host's forwarding: %w", err)
	}
	stop := context.AfterFunc(ctx, events.Close)
	defer func() {
		if stop() {
			events.Close()
		}
	}()
	for {
		if err := f.EnsureEgress(); err != nil {
			return err
		}
		// What changed does not matter, nor that some changes were missed
		// (ENOBUFS): the state is read again.
		if _, _, err := events.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch the host's forwarding: %w", err)
		}
	}
}

func (f *Fabric) removeEgress() error {
	return f.withTables(func(conn *nftables.Conn) error {
		conn.DelTable(&nftables.Table{Name: f.egressTable(), Family: nftables.TableFamilyIPv4})
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove nftables table %s: %w", f.egressTable(), err)
		}
		return nil
	})
}

// withTables runs fn with a connection to the host's nftables.
func (f *Fabric) withTables(fn func(*nftables.Conn) error) error {
	host, err := os.Open(f.cfg.HostNetns)
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	defer host.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(host.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	return fn(conn)
}

// ruleset is a table as we want it.
type ruleset struct {
	table  string
	chains []chain
}

type chain struct {
	nftables.Chain
	rules [][]expr.Any
}

func (f *Fabric) egressRules(mode egressMode) ruleset {
	ours := matchDevice(expr.MetaKeyIIFNAME, f.HostDevice())
	forward := chain{Chain: nftables.Chain{
		Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter}}
	toOurs := matchDevice(expr.MetaKeyOIFNAME, f.HostDevice())
	if mode == egressClosed {
		refuse := chain{Chain: nftables.Chain{
			Name: "prerouting", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter}}
		refuse.rules = [][]expr.Any{rule(ours, notForThisHost(), netProhibited())}
		forward.rules = [][]expr.Any{rule(ours, drop()), rule(toOurs, drop())}
		return ruleset{f.egressTable(), []chain{refuse, forward}}
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
	return ruleset{f.egressTable(), []chain{forward, masquerade}}
}

// replace writes the whole table in one transaction.
func (r ruleset) replace(conn *nftables.Conn) {
	table := &nftables.Table{Name: r.table, Family: nftables.TableFamilyIPv4}
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	for _, c := range r.chains {
		c.Table = table
		conn.AddChain(&c.Chain)
		for _, e := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: &c.Chain, Exprs: e, UserData: []byte(r.digest())})
		}
	}
}

// digest names the rules. It is kept with each rule in the kernel, which
// gives expressions back in a form that is hard to compare.
func (r ruleset) digest() string {
	sum := sha256.New()
	for _, c := range r.chains {
		fmt.Fprintf(sum, "%s %s %d %d\n", c.Name, c.Type, *c.Hooknum, *c.Priority)
		for _, e := range c.rules {
			for _, x := range e {
				fmt.Fprintf(sum, "%T %+v;", x, x)
			}
			fmt.Fprintln(sum)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// installed returns the digest of the rules in the kernel; empty if the table
// is missing, changed or of several makes.
func installed(conn *nftables.Conn, name string) (string, error) {
	table := &nftables.Table{Name: name, Family: nftables.TableFamilyIPv4}
	digest := ""
	for _, c := range []string{"prerouting", "forward", "postrouting"} {
		rules, err := conn.GetRules(table, &nftables.Chain{Name: c, Table: table})
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return "", err
		}
		for _, r := range rules {
			if digest != "" && string(r.UserData) != digest {
				return "", nil
			}
			digest = string(r.UserData)
		}
	}
	return digest, nil
}

func rule(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// matchDevice matches a device by its whole name.
func matchDevice(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
	}
}

// noCluster matches devices that are no cluster's.
func noCluster(key expr.MetaKey) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(hostDevicePrefix)},
	}
}

// notForThisHost matches packets whose destination is no address of the host.
func notForThisHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// connection matches packets in one of the given connection states.
func connection(states uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(states), Xor: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// netProhibited answers "network is unreachable". Of the codes that say so it
// is one that ends connected UDP as well: clients do not wait for a timeout.
func netProhibited() []expr.Any {
	const icmpNetProhibited = 9
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpNetProhibited}}
}
