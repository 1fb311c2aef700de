package fabric

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset is an nftables table as we want it.
type ruleset struct {
	table  string
	family Family
	chains []chain
}

type chain struct {
	nftables.Chain
	rules [][]expr.Any
}

func tableFamily(f Family) nftables.TableFamily {
	if f == IPv4 {
		return nftables.TableFamilyIPv4
	}
	return nftables.TableFamilyIPv6
}

// withTables runs fn with a connection to the nftables of a namespace.
func withTables(netns string, fn func(*nftables.Conn) error) error {
	file, err := os.Open(netns)
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	defer file.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(file.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	return fn(conn)
}

// ensureTables writes those tables that are not in the kernel as wanted, all
// of them in one transaction: a new one takes the kernel milliseconds.
func ensureTables(netns string, want ...ruleset) error {
	return withTables(netns, func(conn *nftables.Conn) error {
		changed := false
		for _, rules := range want {
			have, err := installed(conn, rules)
			if err != nil {
				return fmt.Errorf("read nftables table %s: %w", rules.table, err)
			}
			if have == rules.digest() {
				continue
			}
			rules.replace(conn)
			changed = true
		}
		if !changed {
			return nil
		}
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("write nftables table %s: %w", want[0].table, err)
		}
		return nil
	})
}

// replace writes the whole table.
func (r ruleset) replace(conn *nftables.Conn) {
	table := &nftables.Table{Name: r.table, Family: tableFamily(r.family)}
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

// installed returns the digest of the rules that the kernel has in r's table;
// empty if the table is missing, changed or of several makes.
func installed(conn *nftables.Conn, r ruleset) (string, error) {
	table := &nftables.Table{Name: r.table, Family: tableFamily(r.family)}
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

// deviceName is a device's whole name, as the kernel compares it.
func deviceName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

// matchDevice matches a device by its whole name.
func matchDevice(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: deviceName(name)},
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

// reject answers with "unreachable" of the given code.
func reject(code uint8) []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}}
}
