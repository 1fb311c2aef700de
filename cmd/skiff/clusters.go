package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/hostnode/snapshot"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

// get describes a cluster. If all that supervised it died, the machines run
// on without: the next command that looks brings the supervisor back. A
// stopped cluster stays so.
func (a *app) get(ctx context.Context, name string) (*supervise.Info, error) {
	if err := supervise.Ensure(ctx, name); err != nil && !errors.Is(err, supervise.ErrStopped) {
		return nil, a.hint(err)
	}
	info, err := supervise.Get(ctx, name)
	return info, a.hint(err)
}

// hint gives errors about clusters their mend.
func (a *app) hint(err error) error {
	var m mender
	switch {
	case err == nil, errors.As(err, &m):
		return err
	case errors.Is(err, supervise.ErrNotFound):
		return &mended{err, "skiff get clusters lists those that exist; skiff create cluster makes one"}
	case errors.Is(err, supervise.ErrExists):
		return &mended{err, "choose another --name, or skiff delete cluster first"}
	case errors.Is(err, supervise.ErrNoMachine):
		return &mended{err, "skiff get nodes -A lists all nodes"}
	case errors.Is(err, supervise.ErrStopped):
		return &mended{err, "skiff start cluster brings it back as it was"}
	case errors.Is(err, supervise.ErrPaused):
		return &mended{err, "skiff unpause cluster lets it go on"}
	case errors.Is(err, supervise.ErrNotRunning):
		return &mended{err, "skiff get nodes -A -o wide shows what runs; skiff logs shows why it does not"}
	case errors.Is(err, snapshot.ErrNotFound):
		return &mended{err, "skiff snapshot list shows those that exist"}
	case errors.Is(err, snapshot.ErrExists):
		return &mended{err, "choose another name, or skiff snapshot delete first"}
	case errors.Is(err, snapshot.ErrNewer):
		return &mended{err, "use the skiff that made it, or a newer one; nothing was changed"}
	case errors.Is(err, snapshot.ErrDamaged):
		return &mended{err, "it is of no use: take another one (skiff snapshot list), or copy the file again; nothing was changed"}
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return &mended{err, "clusters belong to root: run it with sudo"}
	}
	return err
}

// findNode finds the cluster of a node: the one named, or else the only one
// that has it.
func (a *app) findNode(ctx context.Context, cluster, node string) (string, error) {
	if cluster == "" {
		cluster = a.getenv(EnvClusterName)
	}
	if cluster != "" {
		return cluster, validName(cluster)
	}
	list, err := supervise.List(ctx)
	if err != nil {
		return "", a.hint(err)
	}
	var owners []string
	for _, info := range list {
		for _, m := range info.Machines {
			if m.Name == node {
				owners = append(owners, info.Name)
			}
		}
	}
	switch len(owners) {
	case 0:
		return "", a.hint(fmt.Errorf("node %q: %w", node, supervise.ErrNoMachine))
	case 1:
		return owners[0], nil
	default:
		return "", &mended{fmt.Errorf("node %q is in clusters %s", node, strings.Join(owners, " and ")), "say which with --name"}
	}
}

// completeFlag completes the value of a flag.
func (a *app) completeFlag(cmd *cobra.Command, flag string, values func(*cobra.Command) []string) {
	// The only error is a flag that does not exist.
	if err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return values(cmd), cobra.ShellCompDirectiveNoFileComp
	}); err != nil {
		panic(err)
	}
}

// clusterNames completes the names of clusters.
func (a *app) clusterNames(cmd *cobra.Command) []string {
	list, err := supervise.List(cmd.Context())
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(list))
	for _, info := range list {
		names = append(names, info.Name)
	}
	return names
}

// completeNodes completes the first argument with the names of nodes.
func (a *app) completeNodes(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	list, err := supervise.List(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	only, _ := cmd.Flags().GetString("name")
	var names []string
	for _, info := range list {
		for _, m := range info.Machines {
			if only == "" || only == info.Name {
				names = append(names, m.Name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
