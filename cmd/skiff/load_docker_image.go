package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/docker"
)

func (a *app) loadDockerImageCommand() *cobra.Command {
	var name string
	var nodes []string
	cmd := &cobra.Command{
		Use:   "docker-image IMAGE...",
		Short: "Load images from a Docker daemon for all nodes of all clusters",
		Long: `Load images from the Docker daemon at $` + docker.HostEnv + `, or of this host. skiff
itself needs no Docker: this is "docker save" and "skiff load image-archive" in
one, without the docker client.`,
		Example: `  skiff load docker-image app:latest
  skiff load docker-image app:latest registry.example/team/db:v3`,
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
	daemon, err := docker.New(a.getenv(docker.HostEnv))
	if err != nil {
		return fromDaemon(err, images)
	}
	defer daemon.Close()
	if err := daemon.Check(ctx, images); err != nil {
		return fromDaemon(err, images)
	}
	dir, err := os.MkdirTemp("", "skiff-docker-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "images.tar")
	steps := a.steps()
	steps.Start("Saving from docker 🐳")
	err = saveTo(ctx, daemon, images, file)
	steps.End(err)
	if err != nil {
		return fromDaemon(err, images)
	}
	return a.loadArchive(ctx, file)
}

func saveTo(ctx context.Context, daemon *docker.Daemon, images []string, file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(daemon.Save(ctx, images, f), f.Close())
}

// fromDaemon gives the errors of a daemon their mends.
func fromDaemon(err error, images []string) error {
	switch {
	case errors.Is(err, docker.ErrNoImage):
		return &mended{err, "docker images lists what there is"}
	case errors.Is(err, docker.ErrAbsent), errors.Is(err, docker.ErrHost):
		quoted := make([]string, len(images))
		for i, image := range images {
			quoted[i] = shellQuote(image)
		}
		return &mended{err, "set " + docker.HostEnv + "=unix://PATH to the daemon's socket; or where the images are: docker save -o images.tar " +
			strings.Join(quoted, " ") + "; here: skiff load image-archive images.tar"}
	default:
		return err
	}
}
