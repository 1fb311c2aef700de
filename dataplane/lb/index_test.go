package lb

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// TestIndexIsAMap: whatever the hashes are, it does what a map does.
func TestIndexIsAMap(t *testing.T) {
	for bits := range 4 {
		t.Run(fmt.Sprintf("%d hashes", 1<<bits), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(bits), 1))
			x := newIndex[*known]()
			x.hash = func(n types.NamespacedName) uint64 { return uint64(n.Name[0]) % (1 << bits) }
			want := map[types.NamespacedName]*known{}
			for range 2000 {
				name := types.NamespacedName{Namespace: "ns", Name: string(rune('a' + r.IntN(12)))}
				switch r.IntN(3) {
				case 0:
					x.drop(name)
					delete(want, name)
				default:
					k := &known{name: name}
					x.put(k)
					want[name] = k
				}
				if got := x.get(name); got != want[name] {
					t.Fatalf("%s is %p, want %p", name, got, want[name])
				}
				if x.len() != len(want) {
					t.Fatalf("%d, want %d", x.len(), len(want))
				}
			}
			for k := range x.all() {
				if want[k.name] != k {
					t.Errorf("%s is not the last one of its name", k.name)
				}
			}
			if n := len(slices.Collect(x.all())); n != len(want) {
				t.Errorf("%d in all, want %d: %v", n, len(want), slices.Collect(maps.Keys(want)))
			}
		})
	}
}

func TestIndexByName(t *testing.T) {
	x := newIndex[*known]()
	for i := range 1000 {
		x.put(&known{name: types.NamespacedName{Namespace: fmt.Sprint(i % 3), Name: fmt.Sprint(i)}})
	}
	for i := range 1000 {
		name := types.NamespacedName{Namespace: fmt.Sprint(i % 3), Name: fmt.Sprint(i)}
		if k := x.get(name); k == nil || k.name != name {
			t.Fatalf("%s is %v", name, k)
		}
		name.Namespace = "none"
		if k := x.get(name); k != nil {
			t.Fatalf("%s is %v", name, k)
		}
	}
}
