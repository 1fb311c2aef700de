package table

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, "")) }

// normal sorts backends and drops doubles, as a table does.
func normal(f Frontend) Frontend {
	f.Backends = slices.Clone(f.Backends)
	slices.SortFunc(f.Backends, netip.AddrPort.Compare)
	f.Backends = slices.Compact(f.Backends)
	var keep []netip.AddrPort
	for _, b := range f.Keep {
		if !slices.Contains(f.Backends, b) {
			keep = append(keep, b)
		}
	}
	slices.SortFunc(keep, netip.AddrPort.Compare)
	f.Keep = slices.Compact(keep)
	if len(f.Backends) == 0 {
		f.Backends = nil
	}
	if f.Sources != nil {
		f.Sources = append([]netip.Prefix{}, f.Sources...)
		slices.SortFunc(f.Sources, netip.Prefix.Compare)
		f.Sources = slices.Compact(f.Sources)
	}
	return f
}

func sorted(all []Frontend) []Frontend {
	out := make([]Frontend, 0, len(all))
	for _, f := range all {
		out = append(out, normal(f))
	}
	slices.SortFunc(out, func(a, b Frontend) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return out
}

func randomFrontend(r *rand.Rand) Frontend {
	six := r.IntN(2) == 0
	addr := func(kind, n int) netip.Addr {
		if six {
			return netip.AddrFrom16([16]byte{0: 0xfd, 2: byte(kind), 15: byte(n)})
		}
		return netip.AddrFrom4([4]byte{10, byte(kind), 0, byte(n)})
	}
	f := Frontend{Key: Key{Addr: addr(96, r.IntN(8)), Port: uint16(1 + r.IntN(4)), Proto: []inet.Protocol{inet.TCP, inet.UDP}[r.IntN(2)]}}
	switch r.IntN(6) {
	case 0:
		f.Scope = FromNode
	case 1:
		f.Scope, f.Addr = AnyNode, netip.IPv4Unspecified()
		if six {
			f.Addr = netip.IPv6Unspecified()
		}
	}
	most := 6
	if r.IntN(10) == 0 {
		most = 60 // several chunks
	}
	backend := func() netip.AddrPort { return netip.AddrPortFrom(addr(244, r.IntN(most)), uint16(80+r.IntN(2))) }
	for range r.IntN(most) {
		f.Backends = append(f.Backends, backend())
	}
	for range r.IntN(3) {
		f.Keep = append(f.Keep, backend())
	}
	if r.IntN(4) == 0 {
		f.Sources = []netip.Prefix{}
		for range r.IntN(3) {
			bits := 8 + r.IntN(24)
			f.Sources = append(f.Sources, netip.PrefixFrom(addr(r.IntN(3), 0), bits).Masked())
		}
	}
	f.Affinity = time.Duration(r.IntN(3)) * time.Hour
	f.Group = uint32(r.IntN(3))
	f.NodeOnly, f.NodeOwn = r.IntN(4) == 0, r.IntN(4) == 0
	return f
}

// count is the number of entries of a map.
func count(t *testing.T, m *ebpf.Map) int {
	t.Helper()
	n := 0
	var k, v []byte
	it := m.Iterate()
	for it.Next(&k, &v) {
		n++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKernelHoldsWhatWasAsked changes a table at random and compares what
// another process reads from the kernel with a plain Go map.
func TestKernelHoldsWhatWasAsked(t *testing.T) {
	sandbox.Root(t)
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			dir := sandbox.BPFFS(t)
			tab, err := Create(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { tab.Close() }()
			want := map[Key]Frontend{}
			for range 30 {
				for range 10 {
					f := randomFrontend(r)
					switch r.IntN(12) {
					case 0:
						// Everything at once.
						clear(want)
						var all []Frontend
						for range r.IntN(30) {
							f := randomFrontend(r)
							if _, twice := want[f.Key]; twice {
								continue
							}
							want[f.Key] = f
							all = append(all, f)
						}
						if failed := tab.Replace(all); len(failed) > 0 {
							t.Fatal(failed)
						}
					case 1, 2, 3, 4:
						delete(want, f.Key)
						if err := tab.Delete(f.Key); err != nil {
							t.Fatal(err)
						}
					default:
						want[f.Key] = f
						if _, err := tab.Set(f); err != nil {
							t.Fatal(err)
						}
						if wrote, err := tab.Set(f); err != nil || wrote {
							t.Fatalf("the second Set wrote: %v, %v", wrote, err)
						}
					}
				}
				var wantAll []Frontend
				var contents []content
				ranges := map[string]int{}
				for _, f := range want {
					wantAll = append(wantAll, f)
					n := normal(f)
					c := contentOf(n.Backends, n.Keep)
					if len(c.backends) > 0 && !slices.ContainsFunc(contents, c.equal) {
						contents = append(contents, c)
					}
					ranges[fmt.Sprint(n.Sources)] = len(n.Sources)
				}
				chunks, prefixes := 0, 0
				for _, c := range contents {
					chunks += chunksOf(len(c.backends))
				}
				for _, n := range ranges {
					prefixes += n
				}
				// Nothing but this, before anybody tidies up.
				if n := count(t, tab.maps.LbChunks); n != chunks {
					t.Fatalf("%d chunks of backends in the kernel, want %d", n, chunks)
				}
				if n := count(t, tab.maps.LbSources); n != prefixes {
					t.Fatalf("%d source ranges in the kernel, want %d", n, prefixes)
				}
				other, err := Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				if got := sorted(other.Frontends()); !reflect.DeepEqual(got, sorted(wantAll)) {
					t.Fatalf("kernel has\n%v\nwant\n%v", got, sorted(wantAll))
				}
				// The other one goes on.
				tab.Close()
				tab = other
			}
		})
	}
}

func TestTakeOverMendsWhatADeadWriterLeft(t *testing.T) {
	sandbox.Root(t)
	dir := sandbox.BPFFS(t)
	f := Frontend{
		Key:      Key{Addr: netip.MustParseAddr("10.96.0.1"), Port: 53, Proto: inet.UDP},
		Backends: []netip.AddrPort{netip.MustParseAddrPort("10.244.0.1:53"), netip.MustParseAddrPort("10.244.0.2:53")},
	}
	for name, damage := range map[string]func(*Table) error{
		"a new set without its service": func(t *Table) error {
			return t.sets.write(&set{id: 77, content: contentOf([]netip.AddrPort{netip.MustParseAddrPort("10.244.0.9:53")}, nil)})
		},
		"an old set that was being removed": func(t *Table) error {
			return t.maps.LbChunks.Delete(&tablesLbChunkKey{Set: t.sets.last, Index: 0})
		},
		"source ranges without a service": func(t *Table) error {
			var present uint8
			return t.maps.LbSources.Update(&tablesLbSource{Bits: 32 + 104, List: 9, Addr: rawAddr(netip.MustParseAddr("10.0.0.0"))}, &present, ebpf.UpdateAny)
		},
	} {
		t.Run(name, func(t *testing.T) {
			tab, err := Create(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer tab.Close()
			if _, err := tab.Set(f); err != nil {
				t.Fatal(err)
			}
			if err := damage(tab); err != nil {
				t.Fatal(err)
			}
			next, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer next.Close()
			if _, err := next.Set(f); err != nil {
				t.Fatal(err)
			}
			if chunks, ranges := count(t, next.maps.LbChunks), count(t, next.maps.LbSources); chunks != 1 || ranges != 0 {
				t.Errorf("%d chunks and %d source ranges, want 1 and 0", chunks, ranges)
			}
			if got := sorted(next.Frontends()); !reflect.DeepEqual(got, sorted([]Frontend{f})) {
				t.Errorf("kernel has %v, want %v", got, f)
			}
			if err := next.Delete(f.Key); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestNodeAddresses(t *testing.T) {
	sandbox.Root(t)
	tab, err := Create("")
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	a, b, c := netip.MustParseAddr("172.30.0.10"), netip.MustParseAddr("172.30.0.11"), netip.MustParseAddr("fd00::12")
	for _, want := range []map[netip.Addr]bool{{a: true, b: false}, {a: true, b: false, c: false}, {b: true}, {}} {
		if err := tab.SetNodes(want); err != nil {
			t.Fatal(err)
		}
		raw, err := dump[tablesLbAddr, tablesLbNodeKind](tab.maps.LbNodes)
		if err != nil {
			t.Fatal(err)
		}
		got := map[netip.Addr]bool{}
		for addr, kind := range raw {
			got[addrFrom(addr)] = kind == tablesLbNodeKindLB_NODE_SELF
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

func TestFullMapsAreReportedAndLeaveTheRestInForce(t *testing.T) {
	sandbox.Root(t)
	tab, err := Create("")
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	var all []Frontend
	for i := range 66000 {
		all = append(all, Frontend{
			Key:      Key{Addr: netip.AddrFrom4([4]byte{10, byte(96 + i>>16), byte(i >> 8), byte(i)}), Port: 80, Proto: inet.TCP},
			Backends: []netip.AddrPort{netip.MustParseAddrPort("10.244.0.1:80")},
		})
	}
	failed := tab.Replace(all)
	if len(failed) == 0 || len(tab.Frontends()) < 65000 || len(failed)+len(tab.Frontends()) != len(all) {
		t.Errorf("%d of %d in force, %d failed", len(tab.Frontends()), len(all), len(failed))
	}
	if n := count(t, tab.maps.LbChunks); n != 1 {
		t.Errorf("%d chunks for one backend", n)
	}
}
