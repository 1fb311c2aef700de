package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

// imagesTool runs `skiff-machine images`: unpacking needs containerd, which is
// in the big program. It returns what the tool prints.
func (a *app) imagesTool(ctx context.Context, args ...string) ([]byte, error) {
	paths, err := supervise.DefaultPaths()
	if err != nil {
		return nil, err
	}
	args = append([]string{"images", args[0], "--store", paths.Images()}, args[1:]...)
	cmd := exec.CommandContext(ctx, filepath.Join(paths.Libexec, "skiff-machine"), args...)
	// An interrupt lets it remove what is half unpacked.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, toolError(stderr.String(), exit, args[len(args)-1])
	}
	return out, err
}

// toolError takes the tool's own words, without the name of a program that
// nobody has called and the file that the caller names.
func toolError(stderr string, exit *exec.ExitError, file string) error {
	said := strings.TrimSpace(stderr)
	if said == "" {
		return fmt.Errorf("skiff-machine images: %w", exit)
	}
	said, mend, _ := strings.Cut(said, "\n  Mend: ")
	said = strings.TrimPrefix(said, "Error: ")
	said = strings.TrimPrefix(said, "skiff-machine images: ")
	said = strings.TrimPrefix(said, "archive "+file+": ") // our caller says it
	if mend == "" {
		return errors.New(said)
	}
	return &mended{errors.New(said), mend}
}
