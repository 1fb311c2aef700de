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

	"github.com/spf13/cobra"
)

func (a *app) loadDockerImageCommand() *cobra.Command {
	var name string
	var nodes []string
	cmd := &cobra.Command{
		Use:   "docker-image IMAGE...",
		Short: "Load images from a Docker daemon for all nodes of all clusters",
		Long: `Load images from the Docker daemon of this host. skiff itself needs no Docker:
this is "docker save" and "skiff load image-archive" in one.`,
		Args: argCount(1, 0, "IMAGE..."),
		RunE: func(cmd *cobra.Command, images []string) error {
			err := a.loadTarget(cmd.Context(), name, nodes)
			if err == nil {
				err = a.loadFromDocker(cmd.Context(), images)
			}
			return a.about("load docker-image", err)
		},
	}
	a.loadFlags(cmd, &name, &nodes)
	return cmd
}

func (a *app) loadFromDocker(ctx context.Context, images []string) (err error) {
	for _, image := range images {
		if strings.HasPrefix(image, "-") {
			return fmt.Errorf("image %q: not a name", image)
		}
	}
	elsewhere := "where the images are: docker save -o images.tar " + strings.Join(images, " ") + "; here: skiff load image-archive images.tar"
	docker, err := exec.LookPath("docker")
	if err != nil {
		return &mended{errors.New("no docker client on this host"), elsewhere}
	}
	if out, err := exec.CommandContext(ctx, docker, "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		return &mended{fmt.Errorf("the docker daemon does not answer: %s", lastLine(out, err)), elsewhere}
	}
	dir, err := os.MkdirTemp("", "skiff-docker-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "images.tar")
	steps := a.steps()
	steps.Start("Saving from docker 🐳")
	out, err := exec.CommandContext(ctx, docker, append([]string{"save", "-o", file}, images...)...).CombinedOutput()
	steps.End(err)
	if err != nil {
		return &mended{fmt.Errorf("docker save: %s", lastLine(out, err)), "docker images lists what there is"}
	}
	return a.loadArchive(ctx, file)
}

// lastLine is a program's last word, or why it could not be run.
func lastLine(out []byte, err error) string {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if last := string(bytes.TrimSpace(lines[len(lines)-1])); last != "" {
		return last
	}
	return err.Error()
}
