package namespaces

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAFrozenMachineStandsStillAndCanBeKilled(t *testing.T) {
	s := newStand(t, "freeze", "while :; do echo x; sleep 0.005; done")
	p := s.start(t)
	running := func() bool {
		was := s.log("s0")
		time.Sleep(100 * time.Millisecond) // ten times what it needs for a line
		return s.log("s0") != was
	}
	eventually(t, "service up", func() bool { return s.log("s0") != "" })
	if s.Hierarchies.Frozen(s.CgroupPath) || !running() {
		t.Error("frozen before anybody froze it")
	}
	if err := s.Hierarchies.Freeze(t.Context(), s.CgroupPath, true); err != nil {
		t.Fatal(err)
	}
	if !s.Hierarchies.Frozen(s.CgroupPath) || running() {
		t.Error("a frozen machine runs")
	}
	if err := s.Hierarchies.Freeze(t.Context(), s.CgroupPath, false); err != nil {
		t.Fatal(err)
	}
	if s.Hierarchies.Frozen(s.CgroupPath) || !running() {
		t.Error("a thawed machine stands still")
	}
	if err := s.Hierarchies.Freeze(t.Context(), s.CgroupPath, true); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Hierarchies.Frozen("skiff-test/nobody") {
		t.Error("what does not exist is frozen")
	}
}
