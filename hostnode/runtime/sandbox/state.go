package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	core "github.com/containerd/containerd/v2/core/sandbox"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/pidfd"
)

// stateFile is the record of a sandbox that was started.
type stateFile struct {
	PID       int             `json:"pid"`
	StartTime uint64          `json:"startTime"`
	CreatedAt time.Time       `json:"createdAt"`
	NetNS     string          `json:"netns,omitempty"`
	Config    json.RawMessage `json:"config"`
}

func (c *Controller) stateFile(id string) string {
	return filepath.Join(c.stateDir(id), "state.json")
}

// record writes the state file: from here on a new node process adopts the
// sandbox.
func (c *Controller) record(sb *sandbox, process *pidfd.Process) error {
	config, err := protojson.Marshal(sb.config)
	if err != nil {
		return fmt.Errorf("record state: %w", err)
	}
	data, err := json.Marshal(stateFile{
		PID: process.PID, StartTime: process.StartTime,
		CreatedAt: sb.createdAt, NetNS: sb.netns, Config: config,
	})
	if err != nil {
		return fmt.Errorf("record state: %w", err)
	}
	aside := c.stateFile(sb.id) + ".new"
	if err := os.WriteFile(aside, data, 0o600); err != nil {
		return fmt.Errorf("record state: %w", err)
	}
	return os.Rename(aside, c.stateFile(sb.id))
}

// adopt takes over the sandboxes that an earlier node process started.
func (c *Controller) adopt() error {
	entries, err := os.ReadDir(c.cfg.State)
	if err != nil {
		return fmt.Errorf("adopt sandboxes: %w", err)
	}
	unknown := false
	for _, entry := range entries {
		id := entry.Name()
		sb, err := c.load(id)
		if errors.Is(err, os.ErrNotExist) {
			// The node process died within Start. CRI has the sandbox on
			// record and will have it removed.
			continue
		}
		if err != nil {
			c.cfg.Log.Warn("sandbox not adopted", "sandbox", id, "error", err)
			unknown = true // and so is its network namespace
			continue
		}
		c.sandboxes[id] = sb
		if sb.process != nil {
			c.watch(sb)
		}
	}
	if unknown {
		return nil
	}
	return c.sweep()
}

func (c *Controller) load(id string) (*sandbox, error) {
	data, err := os.ReadFile(c.stateFile(id))
	if err != nil {
		return nil, err
	}
	var st stateFile
	if err := json.Unmarshal(data, &st); err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{}
	if err := protojson.Unmarshal(st.Config, config); err != nil {
		return nil, err
	}
	sb := &sandbox{id: id, config: config, netns: st.NetNS, createdAt: st.CreatedAt, ended: make(chan struct{})}
	sb.process, err = pidfd.Open(st.PID, st.StartTime)
	if errors.Is(err, unix.ESRCH) {
		sb.exit = core.ExitStatus{ExitStatus: 255, ExitedAt: time.Now()}
		close(sb.ended)
		return sb, nil
	}
	return sb, err
}
