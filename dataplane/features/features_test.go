package features

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

func TestAskSaysWhatIsMissing(t *testing.T) {
	lack := &Missing{"hooks", "6.4", "nothing is enforced"}
	for name, c := range map[string]struct {
		probe error
		want  bool
	}{
		"the kernel has it":                        {nil, false},
		"the kernel lacks it":                      {fmt.Errorf("probe: %w", ebpf.ErrNotSupported), true},
		"a probe that cannot be made says nothing": {os.ErrPermission, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := ask(func() error { return c.probe }, lack)
			if missing := (*Missing)(nil); errors.As(err, &missing) != c.want {
				t.Errorf("have %v", err)
			}
		})
	}
	if got := lack.Error(); got != "kernel feature: hooks (Linux 6.4 and newer): nothing is enforced" {
		t.Error(got)
	}
	if got := lack.Mend(); !strings.Contains(got, "6.4") {
		t.Error(got)
	}
}

// The programs that this stands for load here, or their own tests fail.
func TestThisKernelHasWhatServicesNeed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if err := functionPointers(); err != nil {
		t.Error(err)
	}
}

func BenchmarkAsk(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	for b.Loop() {
		if err := functionPointers(); err != nil {
			b.Fatal(err)
		}
	}
}
