package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/kubeconfig"
	"github.com/skiff-k8s/skiff/hostnode/snapshot"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

type restoreOptions struct {
	snapshot, cluster, kubeconfig string
	now, retain                   bool
	wait                          time.Duration
}

func (a *app) snapshotRestoreCommand() *cobra.Command {
	var o restoreOptions
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT",
		Short: "Bring a cluster back to a snapshot, or make another one of it",
		Long: `Bring a cluster back to a snapshot, or make another one of it.

The cluster that the snapshot was taken of is stopped, gets the objects of the
snapshot, and starts with the addresses, ports and kubeconfig that it has. What
is in its volumes stays as it is now; a volume that is gone since begins empty,
which is told. If it does not start, or the command is interrupted, it gets back
what it had.

With --name of a cluster that does not exist, that is made of the snapshot. Its
nodes have names of its own, and its ranges and ports are the snapshot's unless
somebody has them; then they are the next that are free. Objects follow: Nodes
with their labels and taints, and Pods on them, have the new names, and
addresses of Services the same place in the new range. Volumes are empty. The
CA and the keys of tokens and Secrets are the same: who may enter the one
cluster may enter the other.`,
		Example: "  skiff snapshot restore before-upgrade\n  skiff snapshot restore before-upgrade --name try",
		Args:    argCount(1, 1, "SNAPSHOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.snapshot = args[0]
			return a.about("restore snapshot", a.restoreSnapshot(cmd.Context(), o))
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeSnapshots(cmd, args, to)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.cluster, "name", "n", "", "the cluster to restore or to make (default the one that the snapshot was taken of)")
	a.completeFlag(cmd, "name", a.clusterNames)
	f.BoolVar(&o.now, "now", false, "pull the plug of a running cluster: Pods have no time to end")
	f.BoolVar(&o.retain, "retain", false, "keep a new cluster that does not start, for looking at it")
	f.DurationVar(&o.wait, "wait", defaultWait, "how long to wait until all nodes take Pods; 0s does not wait")
	kubeconfigFlag(cmd, &o.kubeconfig)
	return cmd
}

func (a *app) restoreSnapshot(ctx context.Context, o restoreOptions) error {
	if err := hostcheck.Root("snapshot restore"); err != nil {
		return err
	}
	if err := snapshot.ValidateName(o.snapshot); err != nil {
		return err
	}
	if o.cluster != "" {
		if err := validName(o.cluster); err != nil {
			return err
		}
	}
	began, steps := a.now(), a.steps()
	steps.Println("Restoring snapshot %q ...", o.snapshot)
	info, err := supervise.RestoreSnapshot(ctx, supervise.RestoreOptions{
		Snapshot: o.snapshot, Cluster: o.cluster, Version: version, Now: o.now, Retain: o.retain, Progress: a.snapshotEvents(steps),
	})
	if err := a.started(ctx, info, startFlags{wait: o.wait}, steps, began, err); err != nil {
		return err
	}
	raw, err := supervise.Kubeconfig(info.Name, false)
	if err != nil {
		return err
	}
	kctx := kubeconfig.ContextName(info.Name)
	if err := a.setContext(ctx, a.kubeconfigs(o.kubeconfig), info.Name, raw); err != nil {
		return err
	}
	a.say("Set kubectl context to %q", kctx)
	return nil
}
