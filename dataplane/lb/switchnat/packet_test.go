package switchnat

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/internal/sctp"
	"github.com/skiff-k8s/skiff/dataplane/lb/internal/sctp/sctptest"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// packet is an Ethernet frame with an IPv4 or IPv6 packet in it.
type packet []byte

const ethernet = 14

const sctpProto = byte(inet.SCTP)

func (p packet) six() bool { return p[12] == 0x86 }

// header is the length of the network header with all that follows it before
// the transport's.
func (p packet) header() int {
	if !p.six() {
		return int(p[ethernet]&0xf) * 4
	}
	n, next := 40, p[ethernet+6]
	for next == 0 || next == 60 || next == 44 {
		at := ethernet + n
		n += 8
		if next != 44 {
			n += int(p[at+1]) * 8
		}
		next = p[at]
	}
	return n
}

func (p packet) l4() []byte { return p[ethernet+p.header():] }

func (p packet) proto() byte {
	if !p.six() {
		return p[ethernet+9]
	}
	next := p[ethernet+6]
	for n := 40; next == 0 || next == 60 || next == 44; {
		at := ethernet + n
		n += 8
		if next != 44 {
			n += int(p[at+1]) * 8
		}
		next = p[at]
	}
	return next
}

// addrs are the bytes of both addresses.
func (p packet) addrs() []byte {
	if p.six() {
		return p[ethernet+8 : ethernet+40]
	}
	return p[ethernet+12 : ethernet+20]
}

func (p packet) src() netip.AddrPort { return p.end(0) }
func (p packet) dst() netip.AddrPort { return p.end(1) }

func (p packet) end(i int) netip.AddrPort {
	size := len(p.addrs()) / 2
	a, _ := netip.AddrFromSlice(p.addrs()[i*size : (i+1)*size])
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(p.l4()[2*i:]))
}

// checksumAt is the offset of the transport checksum in l4.
func (p packet) checksumAt() int {
	switch p.proto() {
	case 17:
		return 6
	case sctpProto:
		return 8
	case 1, 58:
		return 2
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

// sctpSum is the checksum that an SCTP packet should have.
func (p packet) sctpSum() uint32 {
	l4 := bytes.Clone(p.l4())
	clear(l4[8:12])
	return crc32.Checksum(l4, crc32.MakeTable(crc32.Castagnoli))
}

// transportSum is 0xffff when the checksum is right.
func (p packet) transportSum() uint32 {
	if p.proto() == sctpProto {
		if have := binary.LittleEndian.Uint32(p.l4()[8:]); have != p.sctpSum() {
			return have
		}
		return 0xffff
	}
	pseudo := sum(p.addrs(), uint32(p.proto())+uint32(len(p.l4())))
	if p.proto() == 1 {
		pseudo = 0
	}
	return sum(p.l4(), pseudo)
}

// buildSCTP makes a packet of one chunk, which has the tag that an INIT has.
func buildSCTP(src, dst netip.AddrPort, chunk byte, tag uint32, options int, payload []byte) packet {
	l4 := make([]byte, 20)
	binary.BigEndian.PutUint16(l4, src.Port())
	binary.BigEndian.PutUint16(l4[2:], dst.Port())
	l4[12] = chunk
	binary.BigEndian.PutUint16(l4[14:], uint16(8+len(payload)))
	binary.BigEndian.PutUint32(l4[16:], tag)
	p := network(src.Addr(), dst.Addr(), sctpProto, options, append(l4, payload...))
	binary.LittleEndian.PutUint32(p.l4()[8:], p.sctpSum())
	return p
}

// build makes a packet with so many words of IP options, or extension headers
// of IPv6, and a payload. SCTP's opens an association where TCP's flags are SYN.
func build(src, dst netip.AddrPort, proto byte, flags byte, options int, payload []byte) packet {
	if proto == sctpProto {
		chunk := byte(sctptest.Init)
		if flags != 2 {
			chunk = sctptest.InitAck
		}
		return buildSCTP(src, dst, chunk, 12345, options, payload)
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
	p := network(src.Addr(), dst.Addr(), proto, options, append(l4, payload...))
	c := ^uint16(p.transportSum())
	if c == 0 && proto == 17 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(p.l4()[p.checksumAt():], c)
	return p
}

// network puts the headers before what a transport protocol sends.
func network(src, dst netip.Addr, proto byte, options int, l4 []byte) packet {
	if src.Is4() {
		p := make(packet, ethernet+20+options*4)
		binary.BigEndian.PutUint16(p[12:], 0x0800)
		ip := p[ethernet:]
		ip[0] = 0x40 | byte(5+options)
		ip[8], ip[9] = 64, proto
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		for i := 20; i < len(ip); i++ {
			ip[i] = 1 // no operation
		}
		p = append(p, l4...)
		binary.BigEndian.PutUint16(p[ethernet+2:], uint16(len(p)-ethernet))
		binary.BigEndian.PutUint16(p[ethernet+10:], ^uint16(sum(p[ethernet:ethernet+20+options*4], 0)))
		return p
	}
	p := make(packet, ethernet+40)
	binary.BigEndian.PutUint16(p[12:], 0x86dd)
	ip := p[ethernet:]
	ip[0], ip[6], ip[7] = 0x60, proto, 64
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	// Hop-by-hop first, then destination options, each of padding.
	last := ethernet + 6
	for i := range min(options, 4) {
		kind := byte(60)
		if i == 0 {
			kind = 0
		}
		p[last] = kind
		last = len(p)
		long := i % 2
		h := make([]byte, 8*(1+long))
		h[0], h[1], h[2], h[3] = proto, byte(long), 1, byte(len(h)-4)
		p = append(p, h...)
	}
	p = append(p, l4...)
	binary.BigEndian.PutUint16(p[ethernet+4:], uint16(len(p)-ethernet-40))
	return p
}

// unreachable is an error of ICMP or ICMPv6 from a router about a packet.
func unreachable(router, to netip.Addr, kind byte, about packet) packet {
	proto := byte(1)
	if router.Is6() {
		proto = 58
	}
	quoted := about[ethernet:]
	l4 := append([]byte{kind, 0, 0, 0, 0, 0, 5, 0}, quoted[:min(len(quoted), 128)]...)
	p := network(router, to, proto, 0, l4)
	binary.BigEndian.PutUint16(p.l4()[2:], ^uint16(p.transportSum()))
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
	if err := sctp.Prepare(spec); err != nil {
		t.Fatal(err)
	}
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
	if s := sum(out[ethernet:ethernet+out.header()], 0); s != 0xffff && !out.six() {
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
		if !p.six() {
			clear(p[ethernet+10 : ethernet+12])
		}
		clear(p.addrs())
		clear(p.l4()[:4])
		clear(p.l4()[at : at+2])
		if p.proto() == sctpProto {
			clear(p.l4()[at : at+4])
		}
		return p
	}
	if !bytes.Equal(plain(in), plain(out)) {
		t.Fatalf("%s: the rest changed:\n%x\n%x", what, in, out)
	}
}

// world is a service with one backend, and who calls it.
type world struct {
	name                     string
	service, backend, client netip.AddrPort
	router                   netip.Addr
	tooBig                   byte // the type of the error
}

var worlds = []world{
	{
		"IPv4", netip.MustParseAddrPort("10.96.0.9:80"), netip.MustParseAddrPort("10.244.3.7:8080"),
		netip.MustParseAddrPort("172.30.0.2:40000"), netip.MustParseAddr("192.0.2.1"), 3,
	},
	{
		"IPv6", netip.MustParseAddrPort("[fd00:96::9]:80"), netip.MustParseAddrPort("[fd00:244:3::7]:8080"),
		netip.MustParseAddrPort("[fd00:30::2]:40000"), netip.MustParseAddr("2001:db8::1"), 2,
	},
}

// set gives a table the worlds' services.
func set(t testing.TB, tab *table.Table) {
	for _, w := range worlds {
		for _, proto := range []inet.Protocol{inet.TCP, inet.UDP, inet.SCTP} {
			f := table.Frontend{Key: table.Key{Addr: w.service.Addr(), Port: w.service.Port(), Proto: proto}, Backends: []netip.AddrPort{w.backend}}
			if _, err := tab.Set(f); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPacketsThereAndBack sends random packets through both programs and
// compares with what a translation is.
func TestPacketsThereAndBack(t *testing.T) {
	sandbox.Root(t)
	objects, tab := programs(t)
	set(t, tab)
	r := rand.New(rand.NewPCG(1, 2))
	for range 6000 {
		w := worlds[r.IntN(2)]
		host := w.client.Addr().AsSlice()
		host[len(host)-1], host[len(host)-2] = byte(r.IntN(256)), byte(r.IntN(256))
		addr, _ := netip.AddrFromSlice(host)
		client := netip.AddrPortFrom(addr, uint16(1+r.IntN(65535)))
		proto := []byte{6, 17, sctpProto}[r.IntN(3)]
		payload := make([]byte, r.IntN(1200))
		for i := range payload {
			payload[i] = byte(r.Uint32())
		}
		in := build(client, w.service, proto, 2, r.IntN(11), payload) // SYN
		if proto == 17 && r.IntN(4) == 0 {
			in.l4()[6], in.l4()[7] = 0, 0
		}
		out := run(t, objects.NatIn, in)
		port := out.src().Port()
		if port < 1024 || port > 32023 {
			t.Fatalf("source port %d", port)
		}
		check(t, "there", in, out, netip.AddrPortFrom(client.Addr(), port), w.backend)
		// The same again is the same flow.
		if again := run(t, objects.NatIn, in); !bytes.Equal(again, out) {
			t.Fatalf("the same packet became another one:\n%x\n%x", out, again)
		}
		reply := build(w.backend, out.src(), proto, 0x12, r.IntN(11), payload)
		back := run(t, objects.NatOut, reply)
		check(t, "back", reply, back, w.service, client)
	}
	// What is nobody's stays as it is.
	for _, w := range worlds {
		for _, dst := range []netip.AddrPort{
			netip.AddrPortFrom(w.service.Addr(), 81), netip.AddrPortFrom(w.service.Addr().Next(), 80), w.backend,
		} {
			for _, proto := range []byte{6, 17, sctpProto} {
				in := build(w.client, dst, proto, 2, 0, []byte("x"))
				if out := run(t, objects.NatIn, in); !bytes.Equal(in, out) {
					t.Errorf("to %s: changed", dst)
				}
				if out := run(t, objects.NatOut, in); !bytes.Equal(in, out) {
					t.Errorf("to %s: changed on the way out", dst)
				}
			}
		}
	}
}

// TestErrorsQuoteWhatTheirReceiverSent: too big and unreachable, about packets
// of the client and of the backend, from routers and from the ends.
func TestErrorsQuoteWhatTheirReceiverSent(t *testing.T) {
	sandbox.Root(t)
	objects, tab := programs(t)
	set(t, tab)
	for _, w := range worlds {
		for _, proto := range []byte{6, 17, sctpProto} {
			asked := build(w.client, w.service, proto, 2, 0, []byte("payload"))
			sent := run(t, objects.NatIn, asked)
			answer := build(w.backend, sent.src(), proto, 0x12, 0, []byte("payload"))
			answered := run(t, objects.NatOut, answer)
			for _, c := range []struct {
				name     string
				prog     *ebpf.Program
				in       packet
				src, dst netip.Addr
				quoted   packet
			}{
				{"a router about the client's", objects.NatOut, unreachable(w.router, w.client.Addr(), w.tooBig, sent), w.router, w.client.Addr(), asked},
				{"the backend about the client's", objects.NatOut, unreachable(w.backend.Addr(), w.client.Addr(), w.tooBig, sent), w.service.Addr(), w.client.Addr(), asked},
				{"a router about the backend's", objects.NatIn, unreachable(w.router, w.service.Addr(), w.tooBig, answered), w.router, w.backend.Addr(), answer},
				{"the client about the backend's", objects.NatIn, unreachable(w.client.Addr(), w.service.Addr(), w.tooBig, answered), w.client.Addr(), w.backend.Addr(), answer},
			} {
				out := run(t, c.prog, c.in)
				if out.src().Addr() != c.src || out.dst().Addr() != c.dst {
					t.Errorf("%s, protocol %d, %s: from %s to %s, want %s, %s", w.name, proto, c.name, out.src().Addr(), out.dst().Addr(), c.src, c.dst)
				}
				if s := out.transportSum(); s != 0xffff {
					t.Errorf("%s, protocol %d, %s: checksum is off: %#x", w.name, proto, c.name, s)
				}
				if s := sum(out[ethernet:ethernet+out.header()], 0); !out.six() && s != 0xffff {
					t.Errorf("%s, protocol %d, %s: header checksum is off: %#x", w.name, proto, c.name, s)
				}
				// The quoted packet as a frame: addresses and ports of old.
				quoted := append(bytes.Clone(c.in[:ethernet]), out.l4()[8:]...)
				got, want := packet(quoted), c.quoted
				if got.src() != want.src() || got.dst() != want.dst() {
					t.Errorf("%s, protocol %d, %s: quotes %s -> %s, want %s -> %s", w.name, proto, c.name, got.src(), got.dst(), want.src(), want.dst())
				}
			}
			// What nobody sent is quoted as it is.
			other := unreachable(w.router, w.client.Addr(), w.tooBig, build(w.client, w.backend, proto, 2, 0, nil))
			if out := run(t, objects.NatOut, other); !bytes.Equal(out, other) {
				t.Errorf("%s: an error about another packet changed", w.name)
			}
		}
	}
}

// FuzzPackets gives both programs anything: a packet that is cut short or
// makes no sense goes on as it is, in its length.
func FuzzPackets(f *testing.F) {
	sandbox.Root(f)
	objects, tab := programs(f)
	set(f, tab)
	for _, w := range worlds {
		whole := build(w.client, w.service, 6, 2, 2, []byte("payload"))
		for n := 34; n <= len(whole); n += 3 {
			f.Add([]byte(whole[:n]))
		}
		f.Add([]byte(unreachable(w.router, w.client.Addr(), w.tooBig, whole)))
	}
	// A first fragment, a later one, and one header more than is walked.
	six := worlds[1]
	for _, at := range []byte{1, 0x10} {
		frame := network(six.client.Addr(), six.service.Addr(), 44, 0, append([]byte{17, 0, 0, at, 0, 0, 0, 9}, make([]byte, 16)...))
		f.Add([]byte(frame))
	}
	f.Add([]byte(network(six.client.Addr(), six.service.Addr(), 60, 4, bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 9))))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < ethernet+20 || len(in) > 2000 || (in[12] == 0x86 && in[13] == 0xdd && len(in) < ethernet+40) {
			return // the kernel's test run wants a whole header
		}
		for _, prog := range []*ebpf.Program{objects.NatIn, objects.NatOut} {
			if out := run(t, prog, in); len(out) != len(in) {
				t.Errorf("length %d became %d", len(in), len(out))
			}
		}
	})
}
