package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

// lifecycle is a verb for clusters that exist.
type lifecycle struct {
	verb string
	// one and several are the help of the two nouns, long is for both.
	one, several, long string
	// boot gives `clusters` the flag --restart-always.
	boot bool
	// flags adds the verb's own.
	flags func(*cobra.Command)
	do    func(ctx context.Context, name string) error
}

// lifecycleCommand is the verb with its nouns: cluster, and clusters.
func (a *app) lifecycleCommand(l lifecycle) *cobra.Command {
	if l.flags == nil {
		l.flags = func(*cobra.Command) {}
	}
	return a.group(l.verb, l.several, a.lifecycleOne(l), a.lifecycleSeveral(l))
}

func (l lifecycle) help(short string) string {
	if l.long == "" {
		return ""
	}
	return short + ".\n\n" + l.long
}

func (a *app) lifecycleOne(l lifecycle) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: l.one,
		Long:  l.help(l.one),
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := a.clusterName(name)
			if err != nil {
				return err
			}
			return a.live(cmd.Context(), l, name)
		},
	}
	a.nameFlag(cmd, &name)
	l.flags(cmd)
	return cmd
}

func (a *app) lifecycleSeveral(l lifecycle) *cobra.Command {
	var all, boot bool
	cmd := &cobra.Command{
		Use:   "clusters [NAME...]",
		Short: l.several,
		Long:  l.help(l.several),
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			ctx := cmd.Context()
			ways := 0
			for _, way := range []bool{all, boot, len(names) > 0} {
				if way {
					ways++
				}
			}
			if ways != 1 {
				how := "Name them, or all with --all"
				if l.boot {
					how += ", or those of the host's boot with --restart-always"
				}
				return &usageError{cmd, fmt.Errorf("%s which clusters? %s", l.verb, how)}
			}
			var err error
			switch {
			case all:
				names, err = publishedNames(ctx)
			case boot:
				names, err = supervise.RestartAlways(ctx)
			}
			if err != nil {
				return a.about(l.verb+" clusters", err)
			}
			var errs []error
			for _, name := range names {
				if err := validName(name); err != nil {
					return err
				}
				// One that fails keeps no other from its turn.
				errs = append(errs, a.live(ctx, l, name))
			}
			return errors.Join(errs...)
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.clusterNames(cmd), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "A", false, "all clusters of this host")
	if l.boot {
		cmd.Flags().BoolVar(&boot, "restart-always", false, "those with \"restart: always\" in their config")
	}
	l.flags(cmd)
	return cmd
}

// live does the verb to one cluster.
func (a *app) live(ctx context.Context, l lifecycle, name string) error {
	operation := fmt.Sprintf("%s cluster %q", l.verb, name)
	if err := hostcheck.Root(fmt.Sprintf("%s cluster --name %s", l.verb, name)); err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return a.about(operation, l.do(ctx, name))
}

func publishedNames(ctx context.Context) ([]string, error) {
	list, err := supervise.List(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list))
	for _, info := range list {
		names = append(names, info.Name)
	}
	return names, nil
}
