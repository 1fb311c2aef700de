package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/ready"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) exportLogsCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "logs [DIR]",
		Short: "Copy the logs of a cluster, its nodes and its Pods into a directory",
		Long: `Copy the logs of a cluster into DIR, by default a new temporary directory, and
print its name: supervisor.log; for every node init.log, node.log, on the control
plane control-plane.log, and pods/ with the logs of containers; and, if the API
server answers, nodes.json, pods.json and events.json.`,
		Args: argCount(0, 1, "[DIR]"),
		RunE: func(cmd *cobra.Command, dirs []string) error {
			name, err := a.clusterName(name)
			if err != nil {
				return err
			}
			dir := ""
			if len(dirs) > 0 {
				dir = dirs[0]
			}
			return a.about("export logs", a.exportLogs(cmd.Context(), name, dir))
		},
	}
	a.nameFlag(cmd, &name)
	return cmd
}

func (a *app) exportLogs(ctx context.Context, name, dir string) error {
	if err := hostcheck.Root("export logs"); err != nil {
		return err
	}
	info, err := a.get(ctx, name)
	if err != nil {
		return err
	}
	paths, err := supervise.DefaultPaths()
	if err != nil {
		return err
	}
	if dir == "" {
		dir, err = os.MkdirTemp("", "skiff-logs-"+name+"-")
	} else {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return err
	}
	a.say("Exporting logs for cluster %q to:", name)
	if _, err := fmt.Fprintln(a.Out, dir); err != nil {
		return err
	}
	// What is there is exported, whatever else fails.
	errs := []error{
		copyTree(filepath.Join(paths.Cluster(name), "logs"), dir),
		copyFile(filepath.Join(paths.Cluster(name), "cluster.json"), filepath.Join(dir, "cluster.json")),
		os.WriteFile(filepath.Join(dir, "skiff-version.txt"), []byte(version+"\n"), 0o644),
	}
	for _, m := range info.Machines {
		pods := filepath.Join(paths.Cluster(name), "machines", m.Name, "var/log/pods")
		errs = append(errs, copyTree(pods, filepath.Join(dir, m.Name, "pods")))
	}
	if info.State != supervise.Stopped {
		if err := a.exportObjects(ctx, name, dir); err != nil {
			a.say("The API server's objects are not exported: %v", err)
		}
	}
	return errors.Join(errs...)
}

// exportObjects writes lists of objects that explain logs.
func (a *app) exportObjects(ctx context.Context, name, dir string) error {
	raw, err := supervise.Kubeconfig(name, false)
	if err != nil {
		return err
	}
	client, err := ready.NewClient(raw)
	if err != nil {
		return err
	}
	defer client.Close()
	for _, kind := range []string{"nodes", "pods", "events"} {
		list, err := client.List(ctx, "/api/v1/"+kind)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, kind+".json"), list, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copyTree copies the plain files below from; a from that is not there is
// empty. Links are left out: those of the kubelet lead to files that are
// copied, others could lead anywhere.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // rotated away since it was listed
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch target := filepath.Join(to, rel); {
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case d.Type().IsRegular():
			return copyFile(path, target)
		}
		return nil
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
