package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1alpha1 "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
)

// mender is an error that knows what the user can do.
type mender interface {
	error
	Mend() string
}

// usageError is a command line that cannot be understood.
type usageError struct {
	cmd *cobra.Command
	err error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Mend() string  { return e.cmd.CommandPath() + " --help" }

// mended gives an error a mend.
type mended struct {
	error
	mend string
}

func (e *mended) Unwrap() error { return e.error }
func (e *mended) Mend() string  { return e.mend }

// exitError is another program's exit code, handed on without a word: that
// program has spoken.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Exit codes besides those of exec'd programs.
const (
	exitFailure     = 1
	exitInterrupted = 130 // as shells do for SIGINT
)

// report prints err and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	var code exitError
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(a.ErrOut, "Error: %v\n", err)
	if m, ok := errors.AsType[mender](err); ok && m.Mend() != "" {
		fmt.Fprintf(a.ErrOut, "  Mend: %s\n", strings.ReplaceAll(m.Mend(), "\n", "\n  "))
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	return exitFailure
}

// about says what was done to which object when err happened, unless err says
// so itself.
func (a *app) about(operation string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), operation+":") {
		return a.hint(err)
	}
	return fmt.Errorf("%s: %w", operation, a.hint(err))
}

// validName refuses what can be no cluster before it becomes part of a path.
func validName(name string) error {
	if errs := v1alpha1.ValidateName(name, field.NewPath("--name")); len(errs) > 0 {
		return &v1alpha1.InvalidError{Errs: errs}
	}
	return nil
}
