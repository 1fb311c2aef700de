package shared_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

func TestDoubling(t *testing.T) {
	calls := make(chan int, 100)
	if n, err := shared.Doubling(20, func(i int) error { calls <- i; return nil }); n != 20 || err != nil || len(calls) != 20 {
		t.Errorf("%d, %v after %d calls", n, err, len(calls))
	}
	var seen []int
	for range 20 {
		seen = append(seen, <-calls)
	}
	slices.Sort(seen)
	for i, n := range seen {
		if n != i {
			t.Fatalf("called for %v", seen)
		}
	}
	bad := errors.New("no")
	if n, err := shared.Doubling(20, func(i int) error { calls <- i; return bad }); n != 0 || !errors.Is(err, bad) || len(calls) != 1 {
		t.Errorf("%d, %v after %d calls: a refusal is heard once", n, err, len(calls))
	}
}
