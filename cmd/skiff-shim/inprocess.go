package main

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"time"

	runcC "github.com/containerd/go-runc"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// inProcess does here what upstream's task service has runc do in processes of
// its own: start, kill and delete, which open one file of the container's, send
// one signal and remove its directories. With runc each takes 5 ms, nearly all
// of it the start of a Go program.
//
// The library is runc's own, of the version that runc is built from (go.mod has
// one), so it reads what `runc create` wrote. Creating and exec stay with runc:
// a process of libcontainer's must reap its children itself, and this one's are
// reaped by the task service.
//
// Whatever does not work is left to runc, whose errors the task service knows.
// So are other OCI runtimes, which RuntimeClasses name, and may be programs
// around runc that count on all calls.
type inProcess struct {
	runcC.ProcessMonitor
	// runc is the path of the program whose work is done here.
	runc string
}

// StartLocked runs a command, or does what it would have done.
func (m inProcess) StartLocked(cmd *exec.Cmd) (chan runcC.Exit, error) {
	exit := runcC.Exit{Timestamp: time.Now()}
	err := errElsewhere
	if len(cmd.Args) > 0 && cmd.Args[0] == m.runc {
		err = do(cmd.Args)
	}
	switch {
	case errors.Is(err, libcontainer.ErrNotRunning) && cmd.Stderr != nil:
		// It has just ended: what runc would say is known.
		exit.Status = 1
		if _, err := fmt.Fprintln(cmd.Stderr, err); err != nil {
			return nil, err
		}
	case err != nil:
		return m.ProcessMonitor.StartLocked(cmd)
	}
	done := make(chan runcC.Exit, 1)
	done <- exit
	return done, nil
}

// Wait returns the exit code of a command that StartLocked was given.
func (m inProcess) Wait(cmd *exec.Cmd, exit chan runcC.Exit) (int, error) {
	if cmd.Process == nil {
		return (<-exit).Status, nil
	}
	return m.ProcessMonitor.Wait(cmd, exit)
}

// errElsewhere says that a command is none of ours.
var errElsewhere = errors.New("left to runc")

// do what a command line of runc says. An error says that runc has to.
func do(args []string) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	container, err := libcontainer.Load(c.root, c.id)
	if err != nil {
		return err
	}
	status, err := container.Status()
	if err != nil {
		return err
	}
	switch {
	case c.verb == "start" && status == libcontainer.Created:
		return container.Exec()
	case c.verb == "kill":
		err := container.Signal(c.signal)
		if c.all && errors.Is(err, libcontainer.ErrNotRunning) {
			return nil
		}
		return err
	case c.verb == "delete" && status == libcontainer.Stopped:
		// Hooks are programs, which only a process that reaps its own children
		// can wait for.
		if config := container.Config(); config.HasHook(configs.Poststop) {
			return errElsewhere
		}
		return container.Destroy()
	}
	return errElsewhere
}

// call is a command line of runc that do understands.
type call struct {
	verb, root, id string
	signal         unix.Signal
	all            bool
}

// parse reads `runc --root DIR --log FILE --log-format json` and then `start ID`,
// `delete ID` or `kill [--all] ID SIGNAL`. With any other option, it is an error.
func parse(args []string) (c call, err error) {
	if len(args) == 0 {
		return c, errElsewhere
	}
	rest := args[1:]
	for len(rest) > 1 && slices.Contains([]string{"--root", "--log", "--log-format"}, rest[0]) {
		if rest[0] == "--root" {
			c.root = rest[1]
		}
		rest = rest[2:]
	}
	if len(rest) == 4 && rest[0] == "kill" && rest[1] == "--all" {
		c.all = true
		rest = slices.Delete(slices.Clone(rest), 1, 2)
	}
	switch {
	case c.root == "":
	case len(rest) == 2 && (rest[0] == "start" || rest[0] == "delete"):
		c.verb, c.id = rest[0], rest[1]
		return c, nil
	case len(rest) == 3 && rest[0] == "kill":
		number, err := strconv.Atoi(rest[2])
		c.verb, c.id, c.signal = rest[0], rest[1], unix.Signal(number)
		return c, err
	}
	return c, errElsewhere
}
