package lb

import (
	"fmt"
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

func TestMain(m *testing.M) {
	root, err := CgroupRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(sandbox.Main(m, root))
}
