package fabric_test

import (
	"os"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

// TestMain finds what tests leave on the host. Other tests of this machine
// may come and go meanwhile: only what is named like ours counts.
func TestMain(m *testing.M) {
	os.Exit(fabrictest.Main(m, func(item string) bool {
		return strings.Contains(item, "fabrictest") || strings.Contains(item, "100.7") || strings.Contains(item, "Test")
	}))
}
