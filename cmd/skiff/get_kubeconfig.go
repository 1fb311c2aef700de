package main

import (
	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) getKubeconfigCommand() *cobra.Command {
	var (
		name     string
		internal bool
	)
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the kubeconfig of a cluster",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			name, err := a.clusterName(name)
			if err != nil {
				return err
			}
			raw, err := supervise.Kubeconfig(name, internal)
			if err != nil {
				return a.about("get kubeconfig", err)
			}
			_, err = a.Out.Write(raw)
			return err
		},
	}
	a.nameFlag(cmd, &name)
	internalFlag(cmd, &internal)
	return cmd
}

func internalFlag(cmd *cobra.Command, internal *bool) {
	cmd.Flags().BoolVar(internal, "internal", false, "use the API server's address on the cluster's own network")
}
