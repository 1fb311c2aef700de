// Command skiff makes Kubernetes clusters out of namespaces: kind's verbs and
// flags, without Docker and without waiting. `skiff --help` tells the rest.
//
// It is thin and small: it reads flags and files, calls hostnode/supervise and
// prints. The supervisor of a cluster is this program too (`skiff supervise`).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/progress"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &app{
		IOStreams: IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
		getenv:    os.Getenv,
		workDir:   os.Getwd,
		now:       time.Now,
		style:     progress.Plain,
	}
	if term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == "" {
		a.style = progress.Terminal
	}
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
