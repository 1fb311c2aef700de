package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/kubeconfig"
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
			return supervise.Run(cmd.Context(), args[0], supervise.RunOptions{
				Renewed: func(ctx context.Context, raw []byte, files []string) error {
					return refreshKubeconfigs(ctx, args[0], raw, files)
				},
			})
		},
	}
}

// refreshKubeconfigs gives the users' files the certificate of raw.
func refreshKubeconfigs(ctx context.Context, cluster string, raw []byte, files []string) error {
	var errs []error
	for _, file := range files {
		_, err := kubeconfig.Files{Explicit: file}.Refresh(ctx, kubeconfig.ContextName(cluster), raw)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
