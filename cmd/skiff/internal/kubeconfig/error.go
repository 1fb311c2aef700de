package kubeconfig

import (
	"errors"
	"io/fs"
)

// Error is a kubeconfig file that could not be changed.
type Error struct {
	Path  string
	Cause error
	mend  string
}

func (e *Error) Error() string { return "kubeconfig " + e.Path + ": " + e.Cause.Error() }

func (e *Error) Unwrap() error { return e.Cause }

// Mend says what the user can do.
func (e *Error) Mend() string {
	if e.mend != "" {
		return e.mend
	}
	return "name another file with --kubeconfig"
}

// notKubeconfig is the content of a file, not the access to it.
type notKubeconfig struct{ cause error }

func (e *notKubeconfig) Error() string { return "not a kubeconfig: " + e.cause.Error() }
func (e *notKubeconfig) Unwrap() error { return e.cause }

func mendOf(err error) string {
	var content *notKubeconfig
	switch {
	case errors.As(err, &content):
		return "repair or move the file, or name another with --kubeconfig"
	case errors.Is(err, fs.ErrPermission):
		return "name a file that you may write with --kubeconfig"
	}
	return ""
}
