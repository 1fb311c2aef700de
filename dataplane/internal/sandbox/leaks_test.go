package sandbox

import (
	"slices"
	"testing"
)

const (
	own   = "410 300 0:60 / /tmp/TestPins/001 rw,relatime - bpf bpf rw,mode=700\n"
	other = "311 300 0:51 / /run/skiff/dev/bpf rw,relatime - bpf bpf rw\n"
	tmpfs = "312 300 0:52 / /run/skiff/dev/secrets rw,relatime - tmpfs tmpfs rw\n"
)

func TestNewPins(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string
		want          []string
	}{
		"a test forgot to unmount":           {other, other + own, []string{"/tmp/TestPins/001"}},
		"another cluster went meanwhile":     {other + own, own, nil},
		"other file systems are not counted": {other, other + tmpfs, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := newPins(bpfMounts(c.before), bpfMounts(c.after)); !slices.Equal(got, c.want) {
				t.Errorf("left behind: %q, want %q", got, c.want)
			}
		})
	}
}
