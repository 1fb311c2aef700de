package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) killNodeCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "node NODE",
		Short: "Kill all processes of a node at once, as a power cut does; it starts again",
		Args:  argCount(1, 1, "NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.about("kill node "+args[0], a.killNode(cmd.Context(), name, args[0]))
		},
		ValidArgsFunction: a.completeNodes,
	}
	a.nodeClusterFlag(cmd, &name)
	return cmd
}

func (a *app) killNode(ctx context.Context, cluster, node string) error {
	if err := hostcheck.Root("kill node " + node); err != nil {
		return err
	}
	cluster, err := a.findNode(ctx, cluster, node)
	if err != nil {
		return err
	}
	if err := supervise.KillNode(ctx, cluster, node); err != nil {
		return err
	}
	a.say("Killed node %q of cluster %q; it is starting again.", node, cluster)
	return nil
}

// nodeClusterFlag adds --name for commands on a node, whose name alone is
// mostly enough.
func (a *app) nodeClusterFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVarP(name, "name", "n", "", "the node's cluster (default $"+EnvClusterName+", else the one that has the node)")
	a.completeFlag(cmd, "name", a.clusterNames)
}
