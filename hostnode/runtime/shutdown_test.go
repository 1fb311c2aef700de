package runtime

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestHowAContainerWantsToEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		annotations map[string]string
		grace       time.Duration
		hook        bool
	}{
		"one that says nothing has the bound":    {nil, ShutdownBound, false},
		"a short grace":                          {map[string]string{graceAnnotation: "7"}, 7 * time.Second, false},
		"none":                                   {map[string]string{graceAnnotation: "0"}, 0, false},
		"an hour is bounded":                     {map[string]string{graceAnnotation: "3600"}, ShutdownBound, false},
		"a number that would not fit is bounded": {map[string]string{graceAnnotation: "9223372036854775807"}, ShutdownBound, false},
		"a hook":                                 {map[string]string{graceAnnotation: "3", preStopAnnotation: `{"exec":{"command":["a"]}}`}, 3 * time.Second, true},
		"a hook that cannot be read is none":     {map[string]string{preStopAnnotation: "{"}, ShutdownBound, false},
	} {
		grace, hook := endOf(tt.annotations)
		if grace != tt.grace || (hook != nil) != tt.hook {
			t.Errorf("%s: %v, %v", name, grace, hook)
		}
	}
}

// TestTheKubeletStillWritesTheAnnotations reads upstream's source: nothing
// else says what the names are.
func TestTheKubeletStillWritesTheAnnotations(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "k8s.io/kubernetes/pkg/kubelet/kuberuntime").Output()
	must(t, err)
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "labels.go"))
	must(t, err)
	for _, name := range []string{graceAnnotation, preStopAnnotation, portsAnnotation} {
		if !strings.Contains(string(source), `"`+name+`"`) {
			t.Errorf("upstream does not know %s any more", name)
		}
	}
}

func TestShutdownEndsContainersInTheirGraceAndStartsNoMore(t *testing.T) {
	n := newNode(t).start()
	p := n.runPod(nil)
	wish := func(grace, hook string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			c.Annotations = map[string]string{graceAnnotation: grace}
			if hook != "" {
				c.Annotations[preStopAnnotation] = hook
			}
		}
	}
	polite := p.runContainer("polite", "trap 'exit 3' TERM; while :; do sleep 0.05; done", wish("20", ""))
	deaf := p.runContainer("deaf", "trap '' TERM; while :; do sleep 0.05; done", wish("1", ""))
	hooked := p.runContainer("hooked", "trap 'test -e /dev/shm/hook && exit 4; exit 5' TERM; while :; do sleep 0.05; done",
		wish("20", `{"exec":{"command":["sh","-c","touch /dev/shm/hook"]}}`))
	// Whose traps are set.
	time.Sleep(300 * time.Millisecond)

	start := time.Now()
	must(t, n.r.Shutdown(t.Context()))
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v: nobody wants more than two seconds", took)
	}
	for id, want := range map[string]int32{polite: 3, deaf: 137, hooked: 4} {
		if s := n.waitExit(id); s.ExitCode != want {
			t.Errorf("exit code %d, want %d", s.ExitCode, want)
		}
	}
	if _, err := n.cri.RunPodSandbox(t.Context(), p.config, ""); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("a new sandbox: %v", err)
	}
	if err := n.cri.StartContainer(t.Context(), polite); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("a container again: %v", err)
	}
	must(t, n.cri.RemoveContainer(t.Context(), polite))
	must(t, n.cri.RemoveContainer(t.Context(), deaf))
	must(t, n.cri.RemoveContainer(t.Context(), hooked))
	n.remove(p.id)
}
