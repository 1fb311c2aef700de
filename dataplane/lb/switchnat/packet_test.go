package switchnat

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// packet is an Ethernet frame with an IPv4 packet in it.
type packet []byte

const ethernet = 14

func (p packet) header() int         { return int(p[ethernet]&0xf) * 4 }
func (p packet) l4() []byte          { return p[ethernet+p.header():] }
func (p packet) proto() byte         { return p[ethernet+9] }
func (p packet) src() netip.AddrPort { return p.end(12, 0) }
func (p packet) dst() netip.AddrPort { return p.end(16, 2) }

func (p packet) end(addr, port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[ethernet+addr:])), binary.BigEndian.Uint16(p.l4()[port:]))
}

// checksumAt is the offset of the transport checksum in l4.
func (p packet) checksumAt() int {
	if p.proto() == 17 {
		return 6
	}
	return 16
}

func sum(b []byte, start uint32) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		start += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		start += uint32(b[len(b)-1]) << 8
	}
	for start>>16 != 0 {
		start = start&0xffff + start>>16
	}
	return start
}

// transportSum is 0xffff when the checksum is right.
func (p packet) transportSum() uint32 {
	pseudo := sum(p[ethernet+12:ethernet+20], uint32(p.proto())+uint32(len(p.l4())))
	return sum(p.l4(), pseudo)
}

// build makes a packet with IP options (words of them) and a payload.
func build(src, dst netip.AddrPort, proto byte, flags byte, options int, payload []byte) packet {
	p := make(packet, ethernet+20+options*4)
	binary.BigEndian.PutUint16(p[12:], 0x0800)
	ip := p[ethernet:]
	ip[0] = 0x40 | byte(5+options)
	ip[8], ip[9] = 64, proto
	copy(ip[12:], src.Addr().AsSlice())
	copy(ip[16:], dst.Addr().AsSlice())
	for i := 20; i < len(ip); i++ {
		ip[i] = 1 // no operation
	}
	l4 := make([]byte, 8)
	if proto == 6 {
		l4 = make([]byte, 20)
		l4[12], l4[13] = 5<<4, flags
		binary.BigEndian.PutUint32(l4[4:], 12345)
	}
	binary.BigEndian.PutUint16(l4, src.Port())
	binary.BigEndian.PutUint16(l4[2:], dst.Port())
	if proto == 17 {
		binary.BigEndian.PutUint16(l4[4:], uint16(8+len(payload)))
	}
	p = append(append(p, l4...), payload...)
	binary.BigEndian.PutUint16(p[ethernet+2:], uint16(len(p)-ethernet))
	binary.BigEndian.PutUint16(p[ethernet+10:], ^uint16(sum(p[ethernet:ethernet+20+options*4], 0)))
	c := ^uint16(p.transportSum())
	if c == 0 && proto == 17 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(p.l4()[p.checksumAt():], c)
	return p
}

// programs are the two programs over a table of their own.
func programs(t testing.TB) (*natObjects, *table.Table) {
	tab, err := table.Create("")
	if err != nil {
		t.Fatal(err)
	}
	spec, err := loadNat()
	if err != nil {
		t.Fatal(err)
	}
	objects := &natObjects{}
	if err := spec.LoadAndAssign(objects, &ebpf.CollectionOptions{MapReplacements: tab.Maps()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { objects.Close(); tab.Close() })
	return objects, tab
}

func run(t testing.TB, prog *ebpf.Program, in packet) packet {
	t.Helper()
	out := make(packet, len(in)+256)
	opts := &ebpf.RunOptions{Data: in, DataOut: out}
	if _, err := prog.Run(opts); err != nil {
		t.Fatal(err)
	}
	return packet(opts.DataOut)
}

// check compares everything but addresses, ports and checksums, and these by
// their meaning.
func check(t testing.TB, what string, in, out packet, src, dst netip.AddrPort) {
	t.Helper()
	if out.src() != src || out.dst() != dst {
		t.Fatalf("%s: %s -> %s, want %s -> %s", what, out.src(), out.dst(), src, dst)
	}
	if s := sum(out[ethernet:ethernet+out.header()], 0); s != 0xffff {
		t.Fatalf("%s: header checksum is off: %#x", what, s)
	}
	at := in.checksumAt()
	if in.proto() == 17 && binary.BigEndian.Uint16(in.l4()[at:]) == 0 {
		if binary.BigEndian.Uint16(out.l4()[at:]) != 0 {
			t.Fatalf("%s: a datagram without checksum got one", what)
		}
	} else if s := out.transportSum(); s != 0xffff {
		t.Fatalf("%s: transport checksum is off: %#x", what, s)
	}
	plain := func(p packet) packet {
		p = bytes.Clone(p)
		clear(p[ethernet+10 : ethernet+20])
		clear(p.l4()[:4])
		clear(p.l4()[at : at+2])
		return p
	}
	if !bytes.Equal(plain(in), plain(out)) {
		t.Fatalf("%s: the rest changed:\n%x\n%x", what, in, out)
	}
}

// TestPacketsThereAndBack sends random packets through both programs and
// compares with what a translation is.
func TestPacketsThereAndBack(t *testing.T) {
	sandbox.Root(t)
	objects, tab := programs(t)
	service, backend := netip.MustParseAddrPort("10.96.0.9:80"), netip.MustParseAddrPort("10.244.3.7:8080")
	for _, proto := range []table.Protocol{table.TCP, table.UDP} {
		f := table.Frontend{Key: table.Key{Addr: service.Addr(), Port: service.Port(), Proto: proto}, Backends: []netip.AddrPort{backend}}
		if _, err := tab.Set(f); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 30, byte(r.IntN(256)), byte(r.IntN(256))}), uint16(1+r.IntN(65535)))
		proto := []byte{6, 17}[r.IntN(2)]
		payload := make([]byte, r.IntN(1200))
		for i := range payload {
			payload[i] = byte(r.Uint32())
		}
		in := build(client, service, proto, 2, r.IntN(11), payload) // SYN
		if proto == 17 && r.IntN(4) == 0 {
			in.l4()[6], in.l4()[7] = 0, 0
		}
		out := run(t, objects.NatIn, in)
		port := out.src().Port()
		if port < 1024 || port > 32023 {
			t.Fatalf("source port %d", port)
		}
		check(t, "there", in, out, netip.AddrPortFrom(client.Addr(), port), backend)
		// The same again is the same flow.
		if again := run(t, objects.NatIn, in); !bytes.Equal(again, out) {
			t.Fatalf("the same packet became another one:\n%x\n%x", out, again)
		}
		reply := build(backend, out.src(), proto, 0x12, r.IntN(11), payload)
		back := run(t, objects.NatOut, reply)
		check(t, "back", reply, back, service, client)
	}
	// What is nobody's stays as it is.
	for _, dst := range []string{"10.96.0.9:81", "10.96.0.10:80", "10.244.3.7:8080"} {
		for _, proto := range []byte{6, 17} {
			in := build(netip.MustParseAddrPort("172.30.0.2:40000"), netip.MustParseAddrPort(dst), proto, 2, 0, []byte("x"))
			if out := run(t, objects.NatIn, in); !bytes.Equal(in, out) {
				t.Errorf("to %s: changed", dst)
			}
			if out := run(t, objects.NatOut, in); !bytes.Equal(in, out) {
				t.Errorf("to %s: changed on the way out", dst)
			}
		}
	}
}

// FuzzPackets gives both programs anything: a packet that is cut short or
// makes no sense goes on as it is, in its length.
func FuzzPackets(f *testing.F) {
	sandbox.Root(f)
	objects, tab := programs(f)
	fe := table.Frontend{Key: table.Key{Addr: netip.MustParseAddr("10.96.0.9"), Port: 80, Proto: table.TCP}, Backends: []netip.AddrPort{netip.MustParseAddrPort("10.244.3.7:8080")}}
	if _, err := tab.Set(fe); err != nil {
		f.Fatal(err)
	}
	client, service := netip.MustParseAddrPort("172.30.0.2:40000"), netip.MustParseAddrPort("10.96.0.9:80")
	whole := build(client, service, 6, 2, 2, []byte("payload"))
	for n := 34; n <= len(whole); n += 3 {
		f.Add([]byte(whole[:n]))
	}
	f.Add([]byte(build(service, client, 1, 0, 0, whole[ethernet:])))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < ethernet+20 || len(in) > 2000 {
			return // the kernel's test run wants a whole header
		}
		for _, prog := range []*ebpf.Program{objects.NatIn, objects.NatOut} {
			if out := run(t, prog, in); len(out) != len(in) {
				t.Errorf("length %d became %d", len(in), len(out))
			}
		}
	})
}
