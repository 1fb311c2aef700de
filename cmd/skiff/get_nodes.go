package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) getNodesCommand() *cobra.Command {
	var (
		name, output string
		all          bool
	)
	cmd := &cobra.Command{
		Use:     "nodes",
		Aliases: []string{"node"},
		Short:   "List the nodes of a cluster",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var rows []nodeRow
			if all {
				list, err := supervise.List(cmd.Context())
				if err != nil {
					return err
				}
				for _, info := range list {
					rows = append(rows, nodeRows(&info)...)
					a.sayNodes(&info, time.Time{})
				}
				if len(rows) == 0 {
					a.say("No skiff clusters found.")
				}
				return printRows(a, output, nodeHeader, rows)
			}
			name, err := a.clusterName(name)
			if err != nil {
				return err
			}
			info, err := a.get(cmd.Context(), name)
			if err != nil {
				return a.about("get nodes", err)
			}
			a.sayNodes(info, time.Time{})
			return printRows(a, output, nodeHeader, nodeRows(info))
		},
	}
	a.nameFlag(cmd, &name)
	a.outputFlag(cmd, &output)
	cmd.Flags().BoolVarP(&all, "all-clusters", "A", false, "the nodes of all clusters")
	return cmd
}
