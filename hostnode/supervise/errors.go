package supervise

import (
	"errors"
	"fmt"
)

// Facts that a caller may branch on.
var (
	// ErrNotFound says that there is no such cluster.
	ErrNotFound = errors.New("no such cluster")
	// ErrExists says that there is one already.
	ErrExists = errors.New("the cluster exists already")
	// ErrNoMachine says that the cluster has no such machine.
	ErrNoMachine = errors.New("no such machine")
	// ErrStopped says that the cluster is not meant to run.
	ErrStopped = errors.New("the cluster is stopped")
	// ErrPaused says that nothing in the cluster moves.
	ErrPaused = errors.New("the cluster is paused")
	// ErrNotRunning says that the machine is down right now.
	ErrNotRunning = errors.New("the machine is not running")
)

// Refusal is an error that the user can do something about.
type Refusal struct {
	// Field is the path in the config file that is to blame, if any.
	Field string
	Err   error
	// Help says what to do.
	Help string
}

func (r *Refusal) Error() string {
	if r.Field == "" {
		return r.Err.Error()
	}
	return fmt.Sprintf("%s: %v", r.Field, r.Err)
}

func (r *Refusal) Unwrap() error { return r.Err }

// Mend says what to do about the error.
func (r *Refusal) Mend() string { return r.Help }
