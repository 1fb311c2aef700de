package job

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestParseIndexes(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "0": "0", "3-3": "3", "0,1": "0,1", "0-1": "0,1", "0,2-4,6": "0,2-4,6", "1,2,3": "1-3", "4,0-2": "0-2,4",
		"7-20": "7-9", "9,10,11": "9", "x,2": "2", "1-x,2": "2", "5-3": "", "-1": "",
	} {
		if got := parseIndexes(text, 10).String(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// The spans say what a plain set of numbers says.
func TestIndexesAsSet(t *testing.T) {
	const below = 20
	random := func() (indexes, map[int]bool) {
		plain := map[int]bool{}
		var list []int
		for range rand.IntN(below) {
			i := rand.IntN(below)
			plain[i] = true
			list = append(list, i)
		}
		return indexes(nil).with(list), plain
	}
	for range 500 {
		a, plainA := random()
		b, plainB := random()
		both, common := a.union(b), 0
		var free []int
		for i := range below {
			if a.has(i) != plainA[i] || both.has(i) != (plainA[i] || plainB[i]) {
				t.Fatalf("%v and %v: wrong about %d", a, b, i)
			}
			if plainA[i] && plainB[i] {
				common++
			}
			if !plainA[i] && len(free) < 5 {
				free = append(free, i)
			}
		}
		if a.count() != len(plainA) || a.common(b) != common {
			t.Fatalf("%v and %v: %d of them, %d common", a, b, a.count(), a.common(b))
		}
		if got := a.missing(5, below); !slices.Equal(got, free) {
			t.Fatalf("%v lacks %v, want %v", a, got, free)
		}
		if got := parseIndexes(a.String(), below); fmt.Sprint(got) != fmt.Sprint(a) {
			t.Fatalf("%v becomes %v", a, got)
		}
	}
}
