package lb

import (
	"fmt"
	"slices"
	"testing"
)

func TestSlabsKeepValuesApart(t *testing.T) {
	var ints slab[int]
	var names texts
	var got [][]int
	var text []string
	for i := range 3000 {
		values := slices.Repeat([]int{i}, i%7)
		got = append(got, ints.take(values...))
		text = append(text, names.take(fmt.Sprint("name ", i)))
	}
	got = append(got, ints.take(make([]int, 100000)...)) // more than a slab has
	long := string(make([]byte, 3*textsLen))
	if names.take(long) != long {
		t.Error("a long text is another one")
	}
	for i := range 3000 {
		// Room for more is somewhere else.
		_ = append(got[i], -1)
		if !slices.Equal(got[i], slices.Repeat([]int{i}, i%7)) || text[i] != fmt.Sprint("name ", i) {
			t.Fatalf("%d: got %v and %q", i, got[i], text[i])
		}
	}
}

func TestSlicesOfAServiceAreInOrder(t *testing.T) {
	k := &known{}
	names := func() (out []string) {
		for _, s := range k.all(nil) {
			out = append(out, s.name)
		}
		return out
	}
	for _, name := range []string{"b", "d", "a", "c", "b"} {
		k.put(&slice{name: name, of: k})
	}
	if got := names(); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Fatalf("got %v", got)
	}
	for i, name := range []string{"c", "a", "d", "b"} {
		k.cut(k.place(name))
		if got := names(); len(got) != 3-i || slices.Contains(got, name) || !slices.IsSorted(got) {
			t.Fatalf("without %s: %v", name, got)
		}
	}
}
