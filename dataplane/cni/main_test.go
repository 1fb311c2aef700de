package cni_test

import (
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

func TestMain(m *testing.M) {
	// The cluster's name, its ranges and the tests' directories.
	os.Exit(fabrictest.Main(m, "cnitest", "100.80.", "100.81.", "100.82.", "100.83.", "fd00:f:8", "/TestPod", "/BenchmarkPod"))
}
