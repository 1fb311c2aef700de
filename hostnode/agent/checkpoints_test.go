package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	allocationstate "k8s.io/kubernetes/pkg/kubelet/allocation/state"
)

// withCheckpoints is a kubelet's directory with all its checkpoints, as
// upstream writes them.
func withCheckpoints(t *testing.T) (Config, *options.KubeletServer) {
	t.Helper()
	cfg := testConfig(t)
	s, err := kubeletServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checkpoints(s) {
		if err := c.read(cfg.RootDir, c.name); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(c.name, "_pods_state") {
			continue
		}
		// Written when there is a Pod.
		state, err := allocationstate.NewStateCheckpoint(logr.Discard(), cfg.RootDir, c.name)
		if err == nil {
			err = state.SetPodResourceInfo(logr.Discard(), types.UID("pod"), allocationstate.PodResourceInfo{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return cfg, s
}

func TestADamagedCheckpointIsFoundBeforeTheKubeletStarts(t *testing.T) {
	cfg, s := withCheckpoints(t)
	list := checkpoints(s)
	if d := damaged(cfg.RootDir, list); d != nil {
		t.Fatal(d)
	}
	for _, c := range list {
		file := filepath.Join(cfg.RootDir, c.name)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"cut off": whole[:len(whole)/2], "empty": {}, "zeros": make([]byte, len(whole))} {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			d := damaged(cfg.RootDir, list)
			if d == nil || d.File != file || !strings.Contains(d.Error(), `checkpoint file "`+file+`" before restarting Kubelet`) {
				t.Errorf("%s, %s: %v", c.name, name, d)
			}
		}
		// Deleted, as upstream says.
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if d := damaged(cfg.RootDir, list); d != nil {
			t.Error(d)
		}
	}
	if left, err := os.ReadDir(cfg.RootDir); err != nil || len(left) > 0 {
		t.Errorf("a look at the checkpoints made %v, %v", left, err)
	}
}

func TestTheKubeletWaitsForItsCheckpoint(t *testing.T) {
	cfg, s := withCheckpoints(t)
	file := filepath.Join(cfg.RootDir, "cpu_manager_state")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	told := make(chan *Damage, 10)
	cfg.Damaged = func(d *Damage) { told <- d }
	recorder := record.NewFakeRecorder(10)

	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := awaitCheckpoints(stopped, cfg, s, recorder); err == nil {
		t.Error("the kubelet would start")
	}
	if d := <-told; d == nil || d.File != file {
		t.Errorf("told %v", d)
	}
	if event := <-recorder.Events; !strings.HasPrefix(event, "Warning KubeletSetupFailed ") || !strings.Contains(event, file) {
		t.Errorf("event %s", event)
	}

	ended := make(chan error, 1)
	go func() { ended <- awaitCheckpoints(t.Context(), cfg, s, recorder) }()
	<-told
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if d := <-told; d != nil {
		t.Errorf("told %v in the end", d)
	}
	if len(told) > 0 || len(recorder.Events) != 1 {
		t.Errorf("told %d times more, and %d events", len(told), len(recorder.Events))
	}
}
