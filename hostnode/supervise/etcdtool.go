package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// etcdTool runs `skiff-machine etcd` on the host: etcd is in the big program.
// What it prints is read into result.
func (p Paths) etcdTool(ctx context.Context, result any, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.Libexec, machineProgram), append([]string{"etcd"}, args...)...)
	cmd.Env = p.environment()
	// An interrupt lets it remove what is half written; a death of ours must
	// not leave it writing.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	// It talks by unix sockets. A copy of one of several members would call the
	// others, whose addresses lead anywhere when the cluster's network is gone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return toolError(stderr.String(), err)
	}
	if err := json.Unmarshal(out, result); err != nil {
		return fmt.Errorf("read what %s etcd prints: %w", machineProgram, err)
	}
	return nil
}

// toolError is the last word of the tool, without the name of a program that
// nobody has called.
func toolError(stderr string, err error) error {
	mark := "Error: " + machineProgram + " etcd: "
	i := strings.LastIndex("\n"+stderr, "\n"+mark)
	if i < 0 {
		return fmt.Errorf("%s etcd: %w: %s", machineProgram, err, strings.TrimSpace(stderr))
	}
	return errors.New(strings.TrimSpace(stderr[i+len(mark):]))
}

// roomy gives an error of a full disk its mend.
func roomy(err error, dir string) error {
	if err == nil || !errors.Is(err, syscall.ENOSPC) && !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return err
	}
	return &Refusal{Err: err, Help: "make room on the disk of " + dir + " (`df -h " + dir + "`; `skiff snapshot delete` removes old snapshots); nothing was changed"}
}
