package cni_test

import (
	"os"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

func TestMain(m *testing.M) {
	os.Exit(fabrictest.Main(m, func(item string) bool {
		return strings.Contains(item, "cnitest") || strings.Contains(item, "100.8") || strings.Contains(item, "Test") || strings.HasPrefix(item, "device pod")
	}))
}
