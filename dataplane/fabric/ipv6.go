package fabric

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ipv6Table is the name of the table in the switch and in every node that does
// for IPv6 what the kernel has only for IPv4.
const ipv6Table = "skiff-ipv6"

// ensureIPv6 gives a namespace the table with rules.
func ensureIPv6(netns string, rules ...[]expr.Any) error {
	check := chain{Chain: nftables.Chain{
		Name: "prerouting", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter}}
	check.rules = rules
	return ensureTables(netns, ruleset{ipv6Table, IPv6, []chain{check}})
}

// dropForged is what rp_filter does: it drops packets whose source address
// would not be answered on the device they came by.
func dropForged() []expr.Any {
	return rule([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: deviceName("lo")},
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}, drop())
}

// refuseNobody resets connections to addresses that nobody has. The answer
// "no route" of the kernel's own finds the connecting socket locked when it
// comes from the same host, and is dropped, until a second later the SYN is
// sent again; a reset waits for the lock.
func refuseNobody() []expr.Any {
	return rule(matchTCP(), firstSegment(), []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_UNREACHABLE)},
	}, resetTCP())
}

func matchTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// firstSegment matches the first segment of a TCP connection: SYN without ACK.
func firstSegment() []expr.Any {
	const flags, syn, ack = 13, 0x02, 0x10
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
	}
}

func resetTCP() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }
