//go:build robustness

package robustness

import (
	"flag"
	"os"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// settings of a run; hack/test-robustness.sh sets them.
var settings struct {
	seed       uint64
	duration   time.Duration
	topology   Topology
	durability string
	report     string
	kills      int
	rate       int
}

func TestMain(m *testing.M) {
	flag.Uint64Var(&settings.seed, "seed", uint64(time.Now().UnixNano())%1_000_000, "of the faults and the load: the same seed draws the same")
	flag.DurationVar(&settings.duration, "duration", time.Minute, "how long faults are drawn")
	flag.IntVar(&settings.topology.ControlPlanes, "control-planes", 1, "of the cluster")
	flag.IntVar(&settings.topology.Workers, "workers", 2, "of the cluster")
	flag.StringVar(&settings.durability, "durability", "durable", "of the cluster: durable or ephemeral")
	flag.StringVar(&settings.report, "report", "", "file to write the report to")
	flag.IntVar(&settings.kills, "kills", 100, "of a node's process, at random")
	flag.IntVar(&settings.rate, "rate", 100, "Pods a minute that come and go")
	flag.Parse()
	os.Exit(m.Run())
}

func TestRobustness(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("clusters need root")
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(recoveryBound)
	SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	RunSpecs(t, "robustness")
}
