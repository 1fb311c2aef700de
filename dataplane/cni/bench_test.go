package cni_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/dataplane/fabric/fabrictest"
)

func TestParallel(t *testing.T) {
	fabrictest.Root(t)
	host := fabrictest.NewHost(t)
	n := newNetwork(t, host.Netns)
	const count = 40
	var pods []pod
	for i := range count {
		p := pod{id: fmt.Sprint("p", i), netns: filepath.Join(t.TempDir(), "pod")}
		fabrictest.NewNetns(t, p.netns)
		pods = append(pods, p)
	}
	for _, par := range []bool{false, true} {
		for _, what := range []string{"setup", "remove"} {
			start := time.Now()
			var wg sync.WaitGroup
			for _, p := range pods {
				f := func() {
					if what == "setup" {
						_, err := n.nodes[0].plugin.Setup(t.Context(), p.id, p.netns)
						if err != nil {
							t.Error(err)
						}
					} else if err := n.nodes[0].plugin.Remove(t.Context(), p.id, p.netns); err != nil {
						t.Error(err)
					}
				}
				if par {
					wg.Go(f)
				} else {
					f()
				}
			}
			wg.Wait()
			t.Log(what, "parallel", par, time.Since(start)/count, "each")
		}
	}
}
