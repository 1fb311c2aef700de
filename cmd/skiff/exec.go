package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

type execOptions struct {
	cluster, node string
	command       []string
	stdin, tty    bool
}

func (a *app) execCommand() *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec NODE -- COMMAND [ARG...]",
		Short: "Run a command inside a node",
		Long:  `Run a command inside a node, in all of its namespaces, and exit with its code.`,
		Example: `  skiff exec skiff-worker -- crictl ps
  skiff exec -it skiff-worker -- bash`,
		Args: argCount(2, 0, "NODE -- COMMAND [ARG...]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.node, o.command = args[0], args[1:]
			return a.about("exec "+o.node, a.exec(cmd.Context(), o))
		},
		ValidArgsFunction: a.completeNodes,
	}
	cmd.Flags().BoolVarP(&o.stdin, "stdin", "i", false, "pass stdin to the command")
	cmd.Flags().BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal; needs -i and one on stdin")
	a.nodeClusterFlag(cmd, &o.cluster)
	return cmd
}

func (a *app) exec(ctx context.Context, o execOptions) error {
	if err := hostcheck.Root("exec " + o.node + " ..."); err != nil {
		return err
	}
	cluster, err := a.findNode(ctx, o.cluster, o.node)
	if err != nil {
		return err
	}
	streams, closeStreams, err := a.files(o.stdin)
	if err != nil {
		return err
	}
	defer closeStreams()
	if o.tty && (!o.stdin || !term.IsTerminal(int(streams.In.Fd()))) {
		return &mended{errors.New("--tty: stdin is not a terminal"), "leave -t out, or call it with -it from a terminal"}
	}
	code, err := supervise.Exec(ctx, cluster, o.node, o.command, streams, o.tty)
	if err != nil {
		return err
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

// files are our streams as what a child process needs.
func (a *app) files(stdin bool) (s supervise.Streams, done func(), err error) {
	in, inOK := a.In.(*os.File)
	out, outOK := a.Out.(*os.File)
	errOut, errOK := a.ErrOut.(*os.File)
	if !inOK || !outOK || !errOK {
		return s, nil, errors.New("stdin, stdout and stderr must be files")
	}
	done = func() {}
	if !stdin {
		if in, err = os.Open(os.DevNull); err != nil {
			return s, nil, err
		}
		done = func() { in.Close() }
	}
	return supervise.Streams{In: in, Out: out, Err: errOut}, done, nil
}
