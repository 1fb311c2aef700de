package processes

import (
	"slices"
	"testing"
)

func TestAChildThatIsStillItsParentDoesNotCount(t *testing.T) {
	all := []Process{{PID: 1, Command: "init"}, {PID: 2, Parent: 1, Command: "node"}, {PID: 3, Parent: 2, Command: "node"}, {PID: 4, Parent: 2, Command: "runc"}, {PID: 5, Parent: 9, Command: "node"}}
	want := slices.Delete(slices.Clone(all), 2, 3)
	if got := WithoutForks(all); !slices.Equal(got, want) {
		t.Errorf("have %v, want %v", got, want)
	}
}
