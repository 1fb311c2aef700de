package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/progress"
	"github.com/skiff-k8s/skiff/hostnode/snapshot"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) snapshotCommand() *cobra.Command {
	cmd := a.group("snapshot", "Save control planes and bring them back",
		a.snapshotCreateCommand(), a.snapshotListCommand(), a.snapshotRestoreCommand(),
		a.snapshotDeleteCommand(), a.snapshotExportCommand(), a.snapshotImportCommand())
	cmd.Long = `Save control planes and bring them back.

A snapshot is all objects of a cluster as they are at one moment, its
certificates and keys, and its config; not the data in volumes, and not images.
Snapshots belong to the host and outlive their cluster. They hold keys and
Secrets: only root can read them, and a file of "snapshot export" deserves the
same care.`
	return cmd
}

func (a *app) snapshotCreateCommand() *cobra.Command {
	var cluster string
	cmd := &cobra.Command{
		Use:     "create [SNAPSHOT]",
		Short:   "Save a cluster's control plane, while it runs or stopped, and print the snapshot's name",
		Long:    "Save a cluster's control plane, while it runs or stopped, and print the snapshot's\nname. Without SNAPSHOT, that is the cluster's and the time.",
		Example: "  skiff snapshot create before-upgrade\n  skiff snapshot create --name dev",
		Args:    argCount(0, 1, "[SNAPSHOT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster, err := a.clusterName(cluster)
			if err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return a.about("create snapshot", a.createSnapshot(cmd.Context(), cluster, name))
		},
	}
	a.nameFlag(cmd, &cluster)
	return cmd
}

func (a *app) createSnapshot(ctx context.Context, cluster, name string) error {
	if err := hostcheck.Root("snapshot create"); err != nil {
		return err
	}
	if name != "" {
		if err := snapshot.ValidateName(name); err != nil {
			return err
		}
	}
	steps := a.steps()
	steps.Println("Saving cluster %q ...", cluster)
	m, err := supervise.CreateSnapshot(ctx, supervise.SnapshotOptions{Cluster: cluster, Name: name, Version: version, Progress: a.snapshotEvents(steps)})
	steps.End(err)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, m.Name)
	return err
}

// snapshotEvents turns the events of a snapshot's verbs into steps.
func (a *app) snapshotEvents(steps *progress.Steps) func(supervise.Event) {
	names := map[supervise.Step]string{
		supervise.StepSave: "Saving control-plane 📸", supervise.StepVerify: "Verifying snapshot 🔍",
		supervise.StepRestore: "Unpacking snapshot 📦", supervise.StepPods: "Ending Pods 🛑",
		supervise.StepDown: "Taking machines away 🧹", supervise.StepBuild: "Preparing machines 📦",
		supervise.StepServer: "Starting control-plane 🕹️", supervise.StepUndo: "Bringing back what was there ↩️",
	}
	return func(e supervise.Event) {
		if e.Note != "" {
			steps.Println("Note: %s", e.Note)
		}
		switch name := names[e.Step]; {
		case e.Error != "":
			steps.End(errStep)
		case name != "" && !e.Done:
			steps.Start(name)
		}
	}
}

// errStep marks a step whose error is told in the end.
var errStep = fmt.Errorf("step failed")

func (a *app) snapshotListCommand() *cobra.Command {
	var cluster, output string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the snapshots of this host, or of one cluster",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.about("list snapshots", a.listSnapshots(cmd.Context(), cluster, output))
		},
	}
	cmd.Flags().StringVarP(&cluster, "name", "n", "", "only those of this cluster (default all)")
	a.completeFlag(cmd, "name", a.clusterNames)
	a.outputFlag(cmd, &output)
	cmd.Flags().Lookup("output").DefValue = "wide"
	output = "wide"
	return cmd
}

func (a *app) listSnapshots(ctx context.Context, cluster, output string) error {
	if err := hostcheck.Root("snapshot list"); err != nil {
		return err
	}
	list, err := supervise.Snapshots(ctx)
	if err != nil {
		return err
	}
	rows := make([]snapshotRow, 0, len(list))
	for _, m := range list {
		if cluster == "" || m.Cluster == cluster {
			rows = append(rows, snapshotRow{m})
		}
	}
	if len(rows) == 0 {
		a.say("No snapshots found.")
		if output == "wide" {
			return nil
		}
	}
	return printRows(a, output, snapshotHeader, rows)
}

// snapshotRow is a snapshot in `skiff snapshot list`.
type snapshotRow struct{ snapshot.Manifest }

func (s snapshotRow) name() string { return s.Name }

var snapshotHeader = []string{"NAME", "CLUSTER", "NODES", "OBJECTS", "SIZE", "AGE", "VERSION"}

func (s snapshotRow) cells(now time.Time) []string {
	if s.Format == 0 {
		return []string{s.Name, "cannot be read", "-", "-", "-", "-", "-"}
	}
	return []string{s.Name, s.Cluster, strconv.Itoa(s.Nodes), strconv.Itoa(s.Etcd.Keys), bytesText(s.Bytes), age(s.Created, now), s.Version}
}

// bytesText is a size in the units of Kubernetes' quantities.
func bytesText(n int64) string {
	f, units := float64(n), []string{"B", "Ki", "Mi", "Gi", "Ti"}
	for f >= 1024 && len(units) > 1 {
		f, units = f/1024, units[1:]
	}
	if units[0] == "B" || f >= 100 {
		return fmt.Sprintf("%.0f%s", f, units[0])
	}
	return fmt.Sprintf("%.1f%s", f, units[0])
}

func (a *app) snapshotDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete SNAPSHOT...",
		Short: "Delete snapshots",
		Args:  argCount(1, 0, "SNAPSHOT..."),
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := hostcheck.Root("snapshot delete"); err != nil {
				return fmt.Errorf("delete snapshot: %w", err)
			}
			for _, name := range names {
				if err := supervise.DeleteSnapshot(cmd.Context(), name); err != nil {
					return a.about("delete snapshot", err)
				}
				a.say("Deleted snapshot %q.", name)
			}
			return nil
		},
		ValidArgsFunction: a.completeSnapshots,
	}
}

// completeSnapshots completes arguments with the names of snapshots.
func (a *app) completeSnapshots(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	list, err := supervise.Snapshots(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, m := range list {
		if !slices.Contains(args, m.Name) {
			names = append(names, m.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
