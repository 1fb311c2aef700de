package supervise

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

func TestAHostWithoutIPv6IsRefusedByField(t *testing.T) {
	fabrictest.Root(t)
	netns := filepath.Join(t.TempDir(), "host")
	fabrictest.NewNetns(t, netns)
	if err := fabrictest.In(netns, probeIPv6); err != nil {
		t.Errorf("with IPv6: %v", err)
	}
	fabrictest.Sysctl(t, netns, "net/ipv6/conf/all/disable_ipv6", "1")
	err := fabrictest.In(netns, probeIPv6)
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok || refusal.Field != "networking.ipFamily" || refusal.Help == "" {
		t.Errorf("without IPv6: %v, want a refusal of networking.ipFamily with a mend", err)
	}
}
