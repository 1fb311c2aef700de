package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) getClustersCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "clusters",
		Aliases: []string{"cluster"},
		Short:   "List the clusters of this host",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := supervise.List(cmd.Context())
			if err != nil {
				return err
			}
			if len(list) == 0 {
				a.say("No skiff clusters found.")
			}
			rows := make([]clusterRow, 0, len(list))
			for _, info := range list {
				rows = append(rows, clusterRow{info})
				if info.Trouble != "" {
					a.say("Cluster %q: %s\n  Mend: %s", info.Name, info.Trouble, strings.ReplaceAll(info.Mend, "\n", "\n  "))
				}
			}
			return printRows(a, output, clusterHeader, rows)
		},
	}
	a.outputFlag(cmd, &output)
	return cmd
}
