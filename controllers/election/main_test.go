package election

import (
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }
