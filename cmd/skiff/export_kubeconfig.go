package main

import (
	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/kubeconfig"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) exportKubeconfigCommand() *cobra.Command {
	var (
		name, path string
		internal   bool
	)
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Put a cluster's context into the kubeconfig and make it the current one",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := a.clusterName(name)
			if err != nil {
				return err
			}
			raw, err := supervise.Kubeconfig(name, internal)
			if err != nil {
				return a.about("export kubeconfig", err)
			}
			kctx := kubeconfig.ContextName(name)
			if err := a.setContext(cmd.Context(), a.kubeconfigs(path), name, raw); err != nil {
				return a.about("export kubeconfig", err)
			}
			a.say("Set kubectl context to %q", kctx)
			return nil
		},
	}
	a.nameFlag(cmd, &name)
	kubeconfigFlag(cmd, &path)
	internalFlag(cmd, &internal)
	return cmd
}
