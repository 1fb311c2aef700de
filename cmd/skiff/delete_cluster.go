package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/kubeconfig"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) deleteClusterCommand() *cobra.Command {
	var name, path string
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Delete a cluster, and its context in the kubeconfig",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := a.clusterName(name)
			if err != nil {
				return err
			}
			return a.deleteCluster(cmd.Context(), name, path)
		},
	}
	a.nameFlag(cmd, &name)
	kubeconfigFlag(cmd, &path)
	return cmd
}

func (a *app) deleteClustersCommand() *cobra.Command {
	var (
		path string
		all  bool
	)
	cmd := &cobra.Command{
		Use:   "clusters [NAME...]",
		Short: "Delete several clusters, or all",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			if all == (len(names) > 0) {
				return &usageError{cmd, errors.New("delete which clusters? Name them, or all with --all")}
			}
			if all {
				var err error
				// Half-made ones too.
				if names, err = supervise.Names(cmd.Context()); err != nil {
					return a.about("delete clusters", err)
				}
			}
			var errs []error
			for _, name := range names {
				if err := validName(name); err != nil {
					return err
				}
				errs = append(errs, a.deleteCluster(cmd.Context(), name, path))
			}
			return errors.Join(errs...)
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.clusterNames(cmd), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "A", false, "all clusters of this host")
	kubeconfigFlag(cmd, &path)
	return cmd
}

// deleteCluster also removes what a half-made cluster left, and the context
// of one that is gone. As in kind, a cluster that does not exist is no error:
// scripts delete before they create.
func (a *app) deleteCluster(ctx context.Context, name, path string) error {
	if err := hostcheck.Root("delete cluster --name " + name); err != nil {
		return fmt.Errorf("delete cluster %q: %w", name, err)
	}
	a.say("Deleting cluster %q ...", name)
	var etcd []string
	if info, err := supervise.Get(ctx, name); err == nil {
		etcd = info.Cluster.EtcdServers
	}
	err := supervise.Delete(ctx, name)
	if err == nil && len(etcd) > 0 {
		a.say("Its data stays in etcd at %s, below /registry/; the key of its Secrets is gone.", strings.Join(etcd, ", "))
	}
	if err == nil {
		a.tellSnapshots(ctx, name)
	}
	if errors.Is(err, supervise.ErrNotFound) {
		a.say("There is no cluster %q.", name)
		err = nil
	}
	return a.about(fmt.Sprintf("delete cluster %q", name), errors.Join(
		a.hint(err), a.kubeconfigs(path).Remove(ctx, kubeconfig.ContextName(name))))
}

// tellSnapshots says that a cluster's snapshots outlive it.
func (a *app) tellSnapshots(ctx context.Context, cluster string) {
	list, err := supervise.Snapshots(ctx)
	if err != nil {
		return // the cluster is gone, and that is what was asked for
	}
	var names []string
	for _, m := range list {
		if m.Cluster == cluster {
			names = append(names, m.Name)
		}
	}
	if len(names) > 0 {
		a.say("Its snapshots stay: %s.", strings.Join(names, ", "))
	}
}
