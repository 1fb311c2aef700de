package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// onSmallDisk gives containerd's directory a file system of its own.
func (n *node) onSmallDisk() *node {
	n.tb.Helper()
	must(n.tb, os.MkdirAll(n.cfg.Root, 0o711))
	must(n.tb, unix.Mount("tmpfs", n.cfg.Root, "tmpfs", 0, "mode=711,size=32m"))
	n.tb.Cleanup(func() { must(n.tb, unix.Unmount(n.cfg.Root, unix.MNT_DETACH)) })
	return n
}

// fillDisk takes every byte that is left, and returns what gives them back.
func (n *node) fillDisk() (empty func()) {
	n.tb.Helper()
	path := filepath.Join(n.cfg.Root, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(n.tb, err)
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			n.tb.Fatal(err)
		}
	}
	must(n.tb, f.Close())
	return func() { must(n.tb, os.Remove(path)) }
}

func (n *node) reserved() int64 {
	n.tb.Helper()
	size, err := n.r.reserve.size()
	must(n.tb, err)
	return size
}

func TestContainersEndOnAFullDisk(t *testing.T) {
	n := newNode(t).onSmallDisk().start()
	p := n.runPod(nil)
	first, second := p.runContainer("first", "sleep 1d", nil), p.runContainer("second", "sleep 1d", nil)
	if got := n.reserved(); got != reserveBytes {
		t.Errorf("reserve of %d bytes", got)
	}
	empty := n.fillDisk()
	must(t, n.cri.StopContainer(t.Context(), first, 0))
	if s := n.waitExit(first); s.ExitCode != 137 {
		t.Errorf("exit code %d", s.ExitCode)
	}
	must(t, n.cri.RemoveContainer(t.Context(), first))
	if s := n.status(second); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the other one: %s", s.State)
	}
	if got := n.reserved(); got == 0 || got >= reserveBytes {
		t.Errorf("%d bytes of the reserve are left", got)
	}
	n.fillDisk()
	n.remove(p.id)

	// With room there is a reserve again.
	empty()
	p = n.runPod(nil)
	must(t, n.cri.RemoveContainer(t.Context(), p.runContainer("next", "sleep 1d", nil)))
	if got := n.reserved(); got != reserveBytes {
		t.Errorf("reserve of %d bytes afterwards", got)
	}
}

func TestContainersAreKnownAfterARestartOnAFullDisk(t *testing.T) {
	n := newNode(t).onSmallDisk().start()
	p := n.runPod(nil)
	lives := p.runContainer("lives", "sleep 1d", nil)
	empty := n.fillDisk()
	n.stop()
	n.run()
	if s := n.status(lives); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("container that lives: %s", s.State)
	}
	if got := n.exec(lives, "echo yes"); got != "yes" {
		t.Errorf("exec: %q", got)
	}
	empty()
}

// TestAFullDiskIsFreeOnceItsContainerIsRemoved is what the kubelet goes by when
// it evicts.
func TestAFullDiskIsFreeOnceItsContainerIsRemoved(t *testing.T) {
	n := newNode(t).onSmallDisk().start()
	p := n.runPod(nil)
	for range 3 { // right after a run the collector waits
		c := p.runContainer("a", "cat /dev/zero > /big; sleep 1d", nil)
		eventually(t, "a full disk", func() error {
			if free, err := n.r.reserve.free(); err != nil || free > reservePiece {
				return fmt.Errorf("%d bytes are free, %w", free, err)
			}
			return nil
		})
		must(t, n.cri.StopContainer(t.Context(), c, 0))
		must(t, n.cri.RemoveContainer(t.Context(), c))
		if n.r.reserve.short() {
			free, err := n.r.reserve.free()
			t.Errorf("%d bytes are free, %v", free, err)
		}
	}
}
