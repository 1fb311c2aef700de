package dns

import (
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, "")) }
