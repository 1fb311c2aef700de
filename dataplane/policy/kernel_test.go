package policy

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, "")) }

// datagram is a packet as netfilter's programs see it.
type datagram struct {
	src, dst   netip.AddrPort // of ICMP, the ports are the id
	proto      inet.Protocol
	flags      byte // of TCP
	icmp       byte // type
	quoted     []byte
	extensions []byte // of IPv6: numbers of headers between the first and the last
	fragment   uint16 // offset, in 8 bytes
	cut        int    // bytes of the transport header that there are; 0: all
}

const (
	syn byte = 0x02
	ack byte = 0x10
	rst byte = 0x04
)

func (d datagram) transport() []byte {
	var b []byte
	switch d.proto {
	case inet.TCP:
		b = make([]byte, 20)
		b[12], b[13] = 0x50, d.flags
	case inet.ICMP, inet.ICMPv6:
		b = make([]byte, 8)
		b[0] = d.icmp
		binary.BigEndian.PutUint16(b[4:], d.src.Port())
		return append(b, d.quoted...)
	default:
		b = make([]byte, 12)
	}
	binary.BigEndian.PutUint16(b, d.src.Port())
	binary.BigEndian.PutUint16(b[2:], d.dst.Port())
	if d.cut > 0 {
		b = b[:d.cut]
	}
	return b
}

func (d datagram) bytes() []byte {
	body := d.transport()
	if d.src.Addr().Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, byte(d.proto)
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
		binary.BigEndian.PutUint16(h[6:], d.fragment)
		copy(h[12:], d.src.Addr().AsSlice())
		copy(h[16:], d.dst.Addr().AsSlice())
		return append(h, body...)
	}
	chain := append(slices.Clone(d.extensions), byte(d.proto))
	var rest []byte
	for i, e := range d.extensions {
		header := make([]byte, 8)
		header[0] = chain[i+1]
		if e == 44 {
			binary.BigEndian.PutUint16(header[2:], d.fragment<<3)
		}
		rest = append(rest, header...)
	}
	rest = append(rest, body...)
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, chain[0], 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(rest)))
	copy(h[8:], d.src.Addr().AsSlice())
	copy(h[24:], d.dst.Addr().AsSlice())
	return append(h, rest...)
}

// bench is a node's programs, run on packets without a network.
type bench struct {
	testing.TB
	*kernel
}

func newBench(t testing.TB) *bench {
	sandbox.Root(t)
	k, err := loadKernel("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{t, k}
}

func (b *bench) apply(c *changes) {
	b.Helper()
	if f := b.table.apply(c); f.any() {
		b.Fatalf("%+v", f)
	}
}

func (b *bench) run(v4, v6 *ebpf.Program, d datagram) bool {
	b.Helper()
	prog := v4
	if d.src.Addr().Is6() {
		prog = v6
	}
	verdict, err := prog.Run(&ebpf.RunOptions{Data: d.bytes()})
	if err != nil {
		b.Fatal(err)
	}
	return verdict == 1
}

func (b *bench) forward(d datagram) bool {
	b.Helper()
	return b.run(b.objects.PolicyForward4, b.objects.PolicyForward6, d)
}

func (b *bench) localIn(d datagram) bool {
	b.Helper()
	return b.run(b.objects.PolicyLocalIn4, b.objects.PolicyLocalIn6, d)
}

func (b *bench) localOut(d datagram) bool {
	b.Helper()
	return b.run(b.objects.PolicyLocalOut4, b.objects.PolicyLocalOut6, d)
}

// datagramOf is a packet that opens a flow, from a port of its own.
func datagramOf(p Packet, own uint16) datagram {
	d := datagram{src: netip.AddrPortFrom(p.Src, own), dst: netip.AddrPortFrom(p.Dst, p.Port), proto: p.Protocol, flags: syn}
	switch p.Protocol {
	case inet.ICMP:
		d.icmp = 8
	case inet.ICMPv6:
		d.icmp = 128
	}
	return d
}

// TestProgramsAgreeWithTheObjects is FuzzModel with the programs in the place
// of their twin.
func TestProgramsAgreeWithTheObjects(t *testing.T) {
	for seed := range uint64(12) {
		h := newHistory(dice{rand.New(rand.NewPCG(seed, 2))})
		nodes := []*bench{newBench(t), newBench(t)}
		own, dropped := uint16(10000), 0
		for range 60 {
			h.step()
			for i, m := range h.models {
				nodes[i].apply(m.commit())
			}
			for range 30 {
				p := h.d.packet()
				own++
				d := datagramOf(p, own)
				have, want := nodes[0].forward(d) && nodes[1].forward(d), Explain(h.world, p)
				if have != want.Allowed {
					t.Fatalf("seed %d: %+v: programs say %v, objects say %+v", seed, p, have, want)
				}
				if !have {
					dropped++
				}
			}
		}
		if dropped < 50 {
			t.Errorf("seed %d: only %d packets were dropped: this shows little", seed, dropped)
		}
		h.end()
		for i, m := range h.models {
			nodes[i].apply(m.commit())
			for name, n := range nodes[i].entries() {
				if n != 0 {
					t.Errorf("seed %d: %s has %d entries with nothing there", seed, name, n)
				}
			}
		}
	}
}

// entries counts what the maps hold.
func (b *bench) entries() map[string]int {
	b.Helper()
	out := map[string]int{}
	count := func(name string, m *ebpf.Map, key, value any) {
		all := m.Iterate()
		for all.Next(key, value) {
			out[name]++
		}
		if err := all.Err(); err != nil {
			b.Fatal(err)
		}
	}
	o := &b.objects
	count("policy_rules", o.PolicyRules, new(bpfPolicyRule), new(uint32))
	count("policy_groups", o.PolicyGroups, new(uint32), new(bpfPolicyGroup))
	count("policy_blocks", o.PolicyBlocks, new(bpfPolicyBlock), new(uint32))
	count("policy_peers", o.PolicyPeers, new(bpfPolicyPeerKey), new(bpfPolicyPeer))
	count("policy_pods", o.PolicyPods, new(bpfPolicyAddr), new(bpfPolicyPod))
	return out
}
