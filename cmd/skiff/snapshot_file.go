package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/hostnode/snapshot"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

func (a *app) snapshotExportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export SNAPSHOT [FILE]",
		Short: "Write a snapshot as one file",
		Long: `Write a snapshot as one file, by default SNAPSHOT.tar.gz in this directory; - is
stdout. It holds keys and Secrets: only its owner can read it.`,
		Args: argCount(1, 2, "SNAPSHOT [FILE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := args[0] + ".tar.gz"
			if len(args) > 1 {
				file = args[1]
			}
			return a.about("export snapshot", a.exportSnapshot(cmd.Context(), args[0], file))
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeSnapshots(cmd, args, to)
		},
	}
	return cmd
}

func (a *app) exportSnapshot(ctx context.Context, name, file string) error {
	if err := hostcheck.Root("snapshot export"); err != nil {
		return err
	}
	if err := snapshot.ValidateName(name); err != nil {
		return err
	}
	if file == "-" {
		if f, ok := a.Out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return &mended{errors.New("a snapshot is nothing for a terminal"), "name a file, or lead stdout into one"}
		}
		return supervise.ExportSnapshot(ctx, name, a.Out)
	}
	if err := replaceWith(file, func(w io.Writer) error { return supervise.ExportSnapshot(ctx, name, w) }); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.Out, file)
	return err
}

// replaceWith publishes a file of root's alone by one rename. A file that a
// killed one left is written again.
func replaceWith(path string, write func(io.Writer) error) (err error) {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	buffered := bufio.NewWriterSize(f, 1<<16)
	err = write(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func (a *app) snapshotImportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE [SNAPSHOT]",
		Short: "Make a snapshot of a file of snapshot export",
		Long: `Make a snapshot of a file of "snapshot export"; - is stdin. Without SNAPSHOT, it
has the name that it had. A file that is damaged, or of a newer skiff, is
refused.`,
		Args: argCount(1, 2, "FILE [SNAPSHOT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 1 {
				name = args[1]
			}
			return a.about("import snapshot", a.importSnapshot(cmd.Context(), args[0], name))
		},
	}
	return cmd
}

func (a *app) importSnapshot(ctx context.Context, file, name string) error {
	if err := hostcheck.Root("snapshot import"); err != nil {
		return err
	}
	if name != "" {
		if err := snapshot.ValidateName(name); err != nil {
			return err
		}
	}
	in := a.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	m, err := supervise.ImportSnapshot(ctx, name, in)
	if err != nil {
		if errors.Is(err, snapshot.ErrDamaged) || errors.Is(err, snapshot.ErrNewer) {
			err = fmt.Errorf("%s: %w", file, err)
		}
		return err
	}
	_, err = fmt.Fprintln(a.Out, m.Name)
	return err
}
