package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1alpha1 "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/kubeconfig"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/progress"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

// IOStreams are where a command reads and writes: results to Out, everything
// that only a person reads to ErrOut.
type IOStreams struct {
	In          io.Reader
	Out, ErrOut io.Writer
}

// app is the command line together with what it uses of its surroundings.
type app struct {
	IOStreams
	getenv  func(string) string
	workDir func() (string, error)
	now     func() time.Time
	style   progress.Style

	quiet     bool
	verbosity int
}

// run is the whole program: it returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	return a.report(ctx, err)
}

func (a *app) rootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "skiff",
		Short: "skiff makes Kubernetes clusters in under a second, without Docker",
		Long: `skiff makes Kubernetes clusters in under a second, without Docker, on one Linux
host: real nodes with upstream's own code, made of namespaces.

  sudo skiff create cluster               a cluster of one node, and kubectl's context
  kubectl get nodes                       use it
  sudo skiff load image-archive app.tar   bring images in, once for all nodes
  sudo skiff delete cluster               take everything away again

A config file makes more nodes; kind's files (kind.x-k8s.io/v1alpha4) work too:

  printf '%s\n' 'kind: Cluster' 'apiVersion: skiff.cluster/v1alpha1' \
    'nodes: [{role: control-plane}, {role: worker}, {role: worker}]' |
    sudo skiff create cluster --config -`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          groupArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.verbosity < 0 {
				return &usageError{cmd, fmt.Errorf("--verbosity %d: less than nothing; --quiet prints less", a.verbosity)}
			}
			if a.quiet {
				a.style = progress.Quiet
			}
			slog.SetDefault(a.logger())
			return nil
		},
	}
	cmd.SetIn(a.In)
	cmd.SetOut(a.Out)
	cmd.SetErr(a.ErrOut)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd, err} })
	cmd.PersistentFlags().BoolVarP(&a.quiet, "quiet", "q", false, "print results and errors only")
	cmd.PersistentFlags().IntVarP(&a.verbosity, "verbosity", "v", 0, "how much to log to stderr: 0 warnings, 1 what changes, 2 and more decisions")
	cmd.AddCommand(
		a.group("create", "Create a cluster", a.createClusterCommand()),
		a.group("delete", "Delete clusters", a.deleteClusterCommand(), a.deleteClustersCommand()),
		a.group("get", "List clusters, nodes and images, or print a kubeconfig",
			a.getClustersCommand(), a.getNodesCommand(), a.getKubeconfigCommand(), a.getImagesCommand()),
		a.group("load", "Load images for all nodes of all clusters", a.loadImageArchiveCommand(), a.loadDockerImageCommand()),
		a.group("export", "Export logs or a kubeconfig", a.exportLogsCommand(), a.exportKubeconfigCommand()),
		a.startCommand(), a.stopCommand(), a.restartCommand(), a.pauseCommand(), a.unpauseCommand(),
		a.snapshotCommand(),
		a.group("kill", "Pull the plug of a node", a.killNodeCommand()),
		a.group("trace", "Say what Services and NetworkPolicies do with a connection", a.traceServiceCommand(), a.tracePolicyCommand()),
		a.execCommand(),
		a.installServiceCommand(), a.uninstallServiceCommand(),
		a.logsCommand(),
		a.superviseCommand(),
		a.versionCommand(),
	)
	return cmd
}

// group is a verb that needs a noun.
func (a *app) group(verb, short string, nouns ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   verb,
		Short: short,
		Args:  groupArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{cmd, fmt.Errorf("%s what? %s", verb, strings.Join(nounsOf(cmd), ", "))}
		},
	}
	cmd.AddCommand(nouns...)
	return cmd
}

// groupArgs refuses an unknown noun: cobra itself would print the help and
// call that success.
func groupArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(s, " or "))
	} else if nouns := nounsOf(cmd); cmd.HasParent() {
		err = fmt.Errorf("%w; it takes %s", err, strings.Join(nouns, ", "))
	}
	return &usageError{cmd, err}
}

func nounsOf(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// noArgs refuses positional arguments: a name given as one, as other tools
// take it, must not be ignored.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unexpected argument %q", args[0])
	if cmd.Flags().Lookup("name") != nil {
		err = fmt.Errorf("%w; a cluster is named by --name %s", err, args[0])
	}
	return &usageError{cmd, err}
}

// argCount wants from least to most positional arguments, described by what.
// most 0 means any number.
func argCount(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most > 0 && len(args) > most {
			return &usageError{cmd, fmt.Errorf("have %d arguments, want %s", len(args), what)}
		}
		return nil
	}
}

func (a *app) logger() *slog.Logger {
	level := slog.LevelWarn
	switch {
	case a.quiet:
		level = slog.LevelError
	case a.verbosity >= 2:
		level = slog.LevelDebug
	case a.verbosity == 1:
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(a.ErrOut, &slog.HandlerOptions{Level: level}))
}

func (a *app) steps() *progress.Steps { return progress.New(a.ErrOut, a.style, a.now) }

// say prints a line for a person.
func (a *app) say(format string, args ...any) {
	if a.style != progress.Quiet {
		fmt.Fprintf(a.ErrOut, format+"\n", args...)
	}
}

// EnvClusterName names the cluster that commands work on.
const EnvClusterName = "SKIFF_CLUSTER_NAME"

const nameUsage = "the cluster (default $" + EnvClusterName + ", else \"" + v1alpha1.DefaultName + "\")"

// nameFlag adds --name. Its value comes from clusterName.
func (a *app) nameFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVarP(name, "name", "n", "", nameUsage)
	a.completeFlag(cmd, "name", a.clusterNames)
}

// clusterName is the cluster that a command means.
func (a *app) clusterName(flag string) (string, error) {
	if flag == "" {
		flag = a.getenv(EnvClusterName)
	}
	if flag == "" {
		flag = v1alpha1.DefaultName
	}
	return flag, validName(flag)
}

// kubeconfigFlag adds --kubeconfig.
func kubeconfigFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "kubeconfig", "", "the kubeconfig file to change (default $KUBECONFIG, else $HOME/.kube/config)")
}

// kubeconfigs are the files of the user.
func (a *app) kubeconfigs(explicit string) kubeconfig.Files {
	return kubeconfig.Files{
		Explicit: explicit, List: a.getenv("KUBECONFIG"), Home: a.getenv("HOME"), SudoUID: a.getenv("SUDO_UID"),
	}
}

// setContext puts the cluster's context into the user's file. Root's cluster
// remembers the file, for when its certificates are renewed.
func (a *app) setContext(ctx context.Context, files kubeconfig.Files, cluster string, raw []byte) error {
	path, err := files.Merge(ctx, kubeconfig.ContextName(cluster), raw)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	if !filepath.IsAbs(path) {
		dir, err := a.workDir()
		if err != nil {
			return err
		}
		path = filepath.Join(dir, path)
	}
	return supervise.RememberKubeconfig(ctx, cluster, path)
}
