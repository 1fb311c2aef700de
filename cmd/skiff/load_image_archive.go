package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
)

func (a *app) loadImageArchiveCommand() *cobra.Command {
	var name string
	var nodes []string
	cmd := &cobra.Command{
		Use:   "image-archive FILE...",
		Short: "Load images from archives (docker save, OCI layouts) for all nodes of all clusters",
		Long: `Load images from archives into the host's image store. They are unpacked once,
and all nodes of all clusters of this host have them: those that run, and those
to come.`,
		Args: argCount(1, 0, "FILE..."),
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := a.loadTarget(cmd.Context(), name, nodes); err != nil {
				return a.about("load image-archive", err)
			}
			for _, f := range files {
				if err := a.loadArchive(cmd.Context(), f); err != nil {
					return a.about("load image-archive "+f, err)
				}
			}
			return nil
		},
	}
	a.loadFlags(cmd, &name, &nodes)
	return cmd
}

// loadFlags are kind's, for its scripts: a loaded image is on every node.
func (a *app) loadFlags(cmd *cobra.Command, name *string, nodes *[]string) {
	cmd.Flags().StringVarP(name, "name", "n", "", "accepted for kind's scripts: a cluster that must exist")
	cmd.Flags().StringSliceVar(nodes, "nodes", nil, "accepted for kind's scripts: every node has what is loaded")
	a.completeFlag(cmd, "name", a.clusterNames)
}

// loadTarget checks privileges, and that a cluster exists when one is named:
// a script that means another one should know.
func (a *app) loadTarget(ctx context.Context, name string, nodes []string) error {
	if err := hostcheck.Root("load ..."); err != nil {
		return err
	}
	if name == "" {
		return nil
	}
	if err := validName(name); err != nil {
		return err
	}
	info, err := a.get(ctx, name)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, m := range info.Machines {
		have[m.Name] = true
	}
	for _, n := range nodes {
		if !have[n] {
			return a.hint(fmt.Errorf("cluster %q has no node %q", name, n))
		}
	}
	return nil
}

func (a *app) loadArchive(ctx context.Context, file string) error {
	info, err := os.Stat(file)
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err // the path is said already
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a file")
	}
	if err != nil {
		return &mended{err, "name an archive: docker save -o app.tar app:latest"}
	}
	steps := a.steps()
	steps.Start("Loading " + file + " 📥")
	out, err := a.imagesTool(ctx, "load", file)
	steps.End(err)
	if err != nil {
		if _, ok := errors.AsType[mender](err); !ok && ctx.Err() == nil {
			err = &mended{err, "name a complete archive: what docker save writes, or an OCI layout in a tar file"}
		}
		return err
	}
	rows, err := imageRows(out)
	if err != nil {
		return err
	}
	return printRows(a, "name", imageHeader, rows)
}
