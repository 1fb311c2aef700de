package fabric_test

import (
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

func TestMain(m *testing.M) {
	// The clusters' names, their ranges and the tests' directories.
	os.Exit(fabrictest.Main(m, "fabrictest", "100.70.", "100.71.", "100.72.", "100.73.", "100.74.", "fd00:f:7", "/TestFabric"))
}
