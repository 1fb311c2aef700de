package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) logsCommand() *cobra.Command {
	var o supervise.LogsOptions
	cmd := &cobra.Command{
		Use:   "logs [MACHINE]",
		Short: "Print the logs of a machine, or of the supervisor",
		Long: `Print the logs of what runs in a machine besides containers: init, node
(containerd, kubelet, dataplane) and, on the control plane, control-plane (etcd,
API server, scheduler, controllers, DNS). MACHINE is a node, by default the
control plane, or "supervisor".`,
		Example: `  skiff logs skiff-worker -f
  skiff logs --component control-plane
  skiff logs supervisor --name dev`,
		Args: argCount(0, 1, "[MACHINE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Machine = args[0]
			}
			return a.about("logs", a.logs(cmd.Context(), o))
		},
		ValidArgsFunction: a.completeNodes,
	}
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on with what is written from now on, until ^C")
	cmd.Flags().StringVarP(&o.Service, "component", "c", "", "one of init, node, control-plane (default all, each line with its name)")
	a.completeFlag(cmd, "component", func(*cobra.Command) []string { return []string{"control-plane", "init", "node"} })
	a.nodeClusterFlag(cmd, &o.Cluster)
	return cmd
}

func (a *app) logs(ctx context.Context, o supervise.LogsOptions) (err error) {
	if err := hostcheck.Root("logs " + o.Machine); err != nil {
		return err
	}
	if o.Machine == "" || o.Machine == supervise.SupervisorName {
		o.Cluster, err = a.clusterName(o.Cluster)
	} else {
		o.Cluster, err = a.findNode(ctx, o.Cluster, o.Machine)
	}
	if err != nil {
		return err
	}
	return supervise.Logs(ctx, o, a.Out)
}
