package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/features"
	allocationstate "k8s.io/kubernetes/pkg/kubelet/allocation/state"
	cpustate "k8s.io/kubernetes/pkg/kubelet/cm/cpumanager/state"
	drastate "k8s.io/kubernetes/pkg/kubelet/cm/dra/state"
	memorystate "k8s.io/kubernetes/pkg/kubelet/cm/memorymanager/state"
	"k8s.io/kubernetes/pkg/kubelet/events"
)

// Upstream's kubelet does not start with a checkpoint that is damaged: its
// process ends, and ends again, until somebody deletes the file. Our process is
// the node's containerd and dataplane as well. So the checkpoints are read
// before, by upstream's own code, and a damaged one keeps the kubelet alone from
// starting.

// Damage is a checkpoint that the kubelet does not start with.
type Damage struct {
	// File is its path.
	File string
	// Err is upstream's, which names the file and what to do.
	Err error
}

func (d *Damage) Error() string { return "the kubelet does not start: " + d.Err.Error() }

// Unwrap returns what is wrong with it.
func (d *Damage) Unwrap() error { return d.Err }

// checkpoint is a file in the kubelet's directory, and how upstream reads it.
type checkpoint struct {
	name string
	// unused says that the kubelet does not read it.
	unused bool
	read   func(dir, name string) error
}

// checkpoints are those that the kubelet insists on.
func checkpoints(s *options.KubeletServer) []checkpoint {
	enabled := utilfeature.DefaultFeatureGate.Enabled
	// It is read again and again while it is damaged, and said once.
	quiet := logr.Discard()
	allocation := func(dir, name string) error {
		_, err := allocationstate.NewStateCheckpoint(quiet, dir, name)
		return err
	}
	return []checkpoint{
		{name: "cpu_manager_state", read: func(dir, name string) error {
			_, err := cpustate.NewCheckpointState(quiet, dir, name, s.CPUManagerPolicy, nil)
			return err
		}},
		{name: "memory_manager_state", read: func(dir, name string) error {
			_, err := memorystate.NewCheckpointState(quiet, dir, name, s.MemoryManagerPolicy)
			return err
		}},
		{name: "allocated_pods_state", unused: !enabled(features.InPlacePodVerticalScaling), read: allocation},
		{name: "actuated_pods_state", unused: !enabled(features.InPlacePodVerticalScaling), read: allocation},
		{name: "dra_manager_state", unused: !enabled(features.DynamicResourceAllocation), read: readClaims},
	}
}

// readClaims words an error as upstream does for the other files.
func readClaims(dir, name string) error {
	from, err := drastate.NewCheckpointer(dir, name)
	if err != nil {
		return err
	}
	point, err := from.GetOrCreate()
	if err == nil {
		_, err = point.GetClaimInfoStateList()
	}
	if err != nil {
		return fmt.Errorf("could not restore state from checkpoint: %w, please drain this node and delete the DRA manager checkpoint file %q before restarting Kubelet",
			err, filepath.Join(dir, name))
	}
	return nil
}

// damaged is the first checkpoint that the kubelet would not start with, or nil.
func damaged(dir string, list []checkpoint) *Damage {
	for _, c := range list {
		file := filepath.Join(dir, c.name)
		if _, err := os.Stat(file); c.unused || errors.Is(err, fs.ErrNotExist) {
			continue // the kubelet makes it
		}
		if err := c.read(dir, c.name); err != nil {
			return &Damage{File: file, Err: err}
		}
	}
	return nil
}

// checkpointLook is between two looks at a checkpoint that is damaged.
const checkpointLook = 250 * time.Millisecond

// awaitCheckpoints returns when the kubelet can start. What keeps it from that
// is told to tell, nil when nothing does any more, and by an Event of the Node.
func awaitCheckpoints(ctx context.Context, cfg Config, s *options.KubeletServer, recorder record.EventRecorder) error {
	node := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: cfg.Node.NodeName, UID: types.UID(cfg.Node.NodeName)}
	list, said := checkpoints(s), ""
	for {
		d := damaged(cfg.RootDir, list)
		if d == nil {
			cfg.Damaged(nil)
			return nil
		}
		if said != d.Error() {
			said = d.Error()
			slog.Error("kubelet does not start", "file", d.File, "error", d.Err)
			recorder.Event(node, corev1.EventTypeWarning, events.KubeletSetupFailed, said)
			cfg.Damaged(d)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(checkpointLook):
		}
	}
}
