package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	said, lastWord := splitError(stderr.String())
	for line := range strings.Lines(said) {
		slog.Info("skiff-machine images", "said", strings.TrimSpace(line))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, toolError(lastWord, exit, args[len(args)-1])
	}
	return out, err
}

// splitError parts what a tool logs from the error that it ends with.
func splitError(stderr string) (log, lastWord string) {
	const mark = "Error: "
	if strings.HasPrefix(stderr, mark) {
		return "", strings.TrimPrefix(stderr, mark)
	}
	if i := strings.LastIndex(stderr, "\n"+mark); i >= 0 {
		return stderr[:i+1], stderr[i+1+len(mark):]
	}
	return stderr, ""
}

// toolError takes the tool's own words, without the name of a program that
// nobody has called and the file that the caller names.
func toolError(lastWord string, exit *exec.ExitError, file string) error {
	lastWord = strings.TrimSpace(lastWord)
	if lastWord == "" {
		return &mended{fmt.Errorf("skiff-machine images: %w", exit), "run it again with -v 1 to see what it says"}
	}
	lastWord, mend, _ := strings.Cut(lastWord, "\n  Mend: ")
	lastWord = strings.TrimPrefix(lastWord, "skiff-machine images: ")
	lastWord = strings.TrimPrefix(lastWord, "archive "+file+": ") // our caller says it
	if mend == "" {
		return errors.New(lastWord)
	}
	return &mended{errors.New(lastWord), mend}
}
