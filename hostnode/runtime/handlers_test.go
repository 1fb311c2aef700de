package runtime

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestHandlersRunTheContainersOfTheirPods(t *testing.T) {
	n := newNode(t)
	program := filepath.Join(t.TempDir(), "other")
	ran := n.wrapRunc(program)
	n.cfg.Handlers = map[string]string{"other": program}
	n.start()

	status, err := n.cri.Status(t.Context(), false)
	must(t, err)
	if !slices.ContainsFunc(status.RuntimeHandlers, func(h *runtimeapi.RuntimeHandler) bool { return h.Name == "other" }) {
		t.Errorf("handlers: %v", status.RuntimeHandlers)
	}
	if _, err := n.cri.RunPodSandbox(t.Context(), podConfig("stray", n.cfg.Root), "missing"); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a handler that is not there: %v", err)
	}

	n.runPod(nil).runContainer("by-runc", "sleep 1d", nil)
	p := n.runPodBy("other", nil)
	c := p.runContainer("by-other", "sleep 1d", nil)
	if got := n.exec(c, "echo works"); got != "works" {
		t.Errorf("exec: %q", got)
	}
	// The node's process comes and goes; the shim and what it runs stay.
	must(t, n.r.Close())
	n.run()
	if got := n.exec(c, "echo still"); got != "still" {
		t.Errorf("exec: %q", got)
	}
	must(t, n.cri.StopContainer(t.Context(), c, 0))
	n.waitExit(c)
	n.remove(p.id)
	if v := verbs(ran()); v["create"] != 1 || v["start"] != 1 || v["exec"] != 2 || v["kill"] == 0 || v["delete"] == 0 {
		t.Errorf("the handler was called for %v:\n%s", v, strings.Join(ran(), "\n"))
	}
}
