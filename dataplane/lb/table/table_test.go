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

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, "")) }

// normal sorts backends and drops doubles, as a table does.
func normal(f Frontend) Frontend {
	f.Backends = slices.Clone(f.Backends)
	slices.SortFunc(f.Backends, netip.AddrPort.Compare)
	f.Backends = slices.Compact(f.Backends)
	if len(f.Backends) == 0 {
		f.Backends = nil
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
	f := Frontend{Key: Key{Port: uint16(1 + r.IntN(4)), Proto: []Protocol{TCP, UDP}[r.IntN(2)]}}
	if r.IntN(5) > 0 {
		f.Addr = netip.AddrFrom4([4]byte{10, 96, 0, byte(r.IntN(8))})
	}
	f.FromNode = r.IntN(6) == 0
	for range r.IntN(6) {
		f.Backends = append(f.Backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 0, byte(r.IntN(5))}), uint16(80+r.IntN(2))))
	}
	f.Affinity = time.Duration(r.IntN(3)) * time.Hour
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
						if failed := tab.Replace(all); failed != nil && len(failed) > 0 {
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
				slots, members := 0, 0
				for _, f := range want {
					wantAll = append(wantAll, f)
					n := len(normal(f).Backends)
					slots += n
					if f.Affinity > 0 || f.Proto == UDP {
						members += n
					}
				}
				// Nothing but this, before anybody tidies up.
				if n := count(t, tab.maps.LbSlots); n != slots {
					t.Fatalf("%d backends in the kernel, want %d", n, slots)
				}
				if n := count(t, tab.maps.LbMembers); n != members {
					t.Fatalf("%d members in the kernel, want %d", n, members)
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
		Key:      Key{Addr: netip.MustParseAddr("10.96.0.1"), Port: 53, Proto: UDP},
		Backends: []netip.AddrPort{netip.MustParseAddrPort("10.244.0.1:53"), netip.MustParseAddrPort("10.244.0.2:53")},
	}
	for name, damage := range map[string]func(*Table) error{
		"a new set without its service": func(t *Table) error {
			return t.writeSlots(entry{set: 77, backends: []tablesLbBackend{{AddrBe: 1}}})
		},
		"an old set that was being removed": func(t *Table) error {
			return t.maps.LbSlots.Delete(&tablesLbSlotKey{Set: t.lastSet, Index: 0})
		},
		"a member too many": func(t *Table) error {
			var present uint8
			return t.maps.LbMembers.Update(&tablesLbMember{Backend: tablesLbBackend{AddrBe: 1}}, &present, ebpf.UpdateAny)
		},
		"a member too few": func(t *Table) error {
			key, e, err := compile(f)
			if err != nil {
				return err
			}
			return t.maps.LbMembers.Delete(&tablesLbMember{Service: key, Backend: e.backends[0]})
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
			if slots, members := count(t, next.maps.LbSlots), count(t, next.maps.LbMembers); slots != 2 || members != 2 {
				t.Errorf("%d backends and %d members, want 2 and 2", slots, members)
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
	a, b, c := netip.MustParseAddr("172.30.0.10"), netip.MustParseAddr("172.30.0.11"), netip.MustParseAddr("172.30.0.12")
	for _, want := range []map[netip.Addr]bool{{a: true, b: false}, {a: true, b: false, c: false}, {b: true}, {}} {
		if err := tab.SetNodes(want); err != nil {
			t.Fatal(err)
		}
		raw, err := dump[uint32, tablesLbNodeKind](tab.maps.LbNodes)
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
	for i := range 17000 {
		all = append(all, Frontend{
			Key:      Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80, Proto: TCP},
			Backends: []netip.AddrPort{netip.MustParseAddrPort("10.244.0.1:80")},
		})
	}
	failed := tab.Replace(all)
	if len(failed) == 0 || len(tab.Frontends()) < 16000 || len(failed)+len(tab.Frontends()) != len(all) {
		t.Errorf("%d of %d in force, %d failed", len(tab.Frontends()), len(all), len(failed))
	}
	if n := count(t, tab.maps.LbSlots); n != len(tab.Frontends()) {
		t.Errorf("%d backends for %d frontends", n, len(tab.Frontends()))
	}
}
