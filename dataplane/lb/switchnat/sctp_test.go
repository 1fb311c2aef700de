package switchnat

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/internal/sctp/sctptest"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// association is one client's, through both programs.
type association struct {
	*testing.T
	world
	objects *natObjects
}

// sends gives the client's packet to the program, and returns what the backend
// gets.
func (a association) sends(chunk byte, tag uint32) packet {
	a.Helper()
	return run(a, a.objects.NatIn, buildSCTP(a.client, a.service, chunk, tag, 0, []byte("data")))
}

// answers gives a backend's packet to the program.
func (a association) answers(to packet, chunk byte) {
	a.Helper()
	reply := buildSCTP(to.dst(), to.src(), chunk, 7, 0, []byte("data"))
	check(a, "answer", reply, run(a, a.objects.NatOut, reply), a.service, a.client)
}

// translated says whether a packet is on its way to a backend.
func (a association) translated(p packet) bool { return p.dst() != a.service }

func TestAssociations(t *testing.T) {
	sandbox.Root(t)
	objects, tab := programs(t)
	for _, w := range worlds {
		second := netip.AddrPortFrom(w.backend.Addr().Next(), w.backend.Port())
		serve := func(backends ...netip.AddrPort) {
			t.Helper()
			f := table.Frontend{Key: table.Key{Addr: w.service.Addr(), Port: w.service.Port(), Proto: inet.SCTP}, Backends: backends}
			if _, err := tab.Set(f); err != nil {
				t.Fatal(err)
			}
		}
		a := association{t, w, objects}
		flows := func() (n int) {
			t.Helper()
			var k natNatTuple
			var v natNatFlow
			for it := objects.NatFlows.Iterate(); it.Next(&k, &v); {
				n++
			}
			return n
		}
		serve(w.backend)

		if a.translated(a.sends(sctptest.Data, 1)) {
			t.Errorf("%s: data opens an association", w.name)
		}
		first := a.sends(sctptest.Init, 1)
		if again := a.sends(sctptest.Init, 1); !bytes.Equal(first, again) {
			t.Errorf("%s: a repeated INIT is another association: %s, %s", w.name, first.src(), again.src())
		}
		a.answers(first, sctptest.InitAck)
		// Nothing is agreed: another INIT is another association.
		other := a.sends(sctptest.Init, 2)
		if other.src() == first.src() || flows() != 1 {
			t.Errorf("%s: another INIT goes by the old port, or %d flows stay", w.name, flows())
		}
		a.answers(other, sctptest.InitAck)
		a.sends(sctptest.CookieEcho, 0)
		a.answers(other, sctptest.CookieAck)
		// A client that lives again goes to the backend that knows it, as
		// long as that serves.
		serve(w.backend, second)
		for tag := range uint32(20) {
			if again := a.sends(sctptest.Init, 100+tag); again.src() != other.src() || again.dst() != other.dst() {
				t.Errorf("%s: an agreed association went elsewhere: %s to %s", w.name, again.src(), again.dst())
			}
		}
		serve(second)
		moved := a.sends(sctptest.Init, 3)
		if moved.dst() != second || flows() != 1 {
			t.Errorf("%s: to %s with %d flows, want %s, the only backend", w.name, moved.dst(), flows(), second)
		}
		// It ends from either side.
		a.answers(moved, sctptest.ShutdownComplete)
		if a.translated(a.sends(sctptest.Data, 0)) || flows() != 0 {
			t.Errorf("%s: data after SHUTDOWN COMPLETE is translated", w.name)
		}
		if !a.translated(a.sends(sctptest.Init, 4)) || !a.translated(a.sends(sctptest.Abort, 0)) || a.translated(a.sends(sctptest.Data, 0)) || flows() != 0 {
			t.Errorf("%s: not over after ABORT", w.name)
		}
		// Nobody answers for a service without endpoints: the packet goes on.
		serve()
		if a.translated(a.sends(sctptest.Init, 5)) {
			t.Errorf("%s: translated without endpoints", w.name)
		}
	}
}

// TestFragmentsOfAssociations: the checksum of a fragmented packet cannot be
// corrected, so that it may not go on, neither way.
func TestFragmentsOfAssociations(t *testing.T) {
	sandbox.Root(t)
	objects, tab := programs(t)
	set(t, tab)
	const shot = 2
	verdict := func(prog *ebpf.Program, in packet) uint32 {
		t.Helper()
		ret, err := prog.Run(&ebpf.RunOptions{Data: in})
		if err != nil {
			t.Fatal(err)
		}
		return ret
	}
	first := func(src, dst netip.AddrPort) packet {
		p := buildSCTP(src, dst, sctptest.Data, 0, 0, []byte("data"))
		if !p.six() {
			binary.BigEndian.PutUint16(p[ethernet+6:], 0x2000)
			return p
		}
		fragment := []byte{sctpProto, 0, 0, 1, 0, 0, 0, 9}
		return network(src.Addr(), dst.Addr(), 44, 0, append(fragment, p.l4()...))
	}
	for _, w := range worlds {
		if got := verdict(objects.NatIn, first(w.client, w.service)); got == shot {
			t.Errorf("%s: a fragment of nobody's association was dropped", w.name)
		}
		sent := run(t, objects.NatIn, buildSCTP(w.client, w.service, sctptest.Init, 1, 0, nil))
		for name, got := range map[string]uint32{
			"the client's":  verdict(objects.NatIn, first(w.client, w.service)),
			"the backend's": verdict(objects.NatOut, first(w.backend, sent.src())),
		} {
			if got != shot {
				t.Errorf("%s: %s fragment: verdict %d, want %d", w.name, name, got, shot)
			}
		}
	}
}
