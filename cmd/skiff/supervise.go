package main

import (
	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

// superviseCommand is what Create leaves running; nobody types it.
func (a *app) superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "supervise NAME",
		Short:  "Run the supervisor of a cluster",
		Hidden: true,
		Args:   argCount(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := validName(args[0]); err != nil {
				return err
			}
			return supervise.Run(cmd.Context(), args[0])
		},
	}
}
