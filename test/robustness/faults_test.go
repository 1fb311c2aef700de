//go:build robustness

package robustness

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/test/reboot"
)

// fault is one that the suite can make: inject brings it about, undo ends it
// after the step's hold. A fault that the cluster must mend by itself has no
// undo.
type fault struct {
	Fault
	inject func(ctx context.Context, c *cluster, target int) error
	undo   func(ctx context.Context, c *cluster, target int) error
}

// Programs of a cluster by a word of their command lines.
const (
	supervisorWord   = "skiff supervise"
	watcherWord      = "skiff-init watch"
	initWord         = "skiff-init"
	controlPlaneWord = "skiff-machine control-plane"
	nodeWord         = "skiff-machine node"
	shimWord         = "skiff-shim"
	journalWord      = "/journal"
)

func several(t Topology) bool { return t.ControlPlanes > 1 }

// faults is everything that may happen to a cluster.
func faults() []fault {
	second := time.Second
	all := []fault{
		{Fault: Fault{Name: "kill -9 supervisor", Weight: 3}, inject: killing(supervisorWord, nowhere)},
		{Fault: Fault{Name: "kill -9 watcher", Weight: 1}, inject: killing(watcherWord, nowhere)},
		{Fault: Fault{Name: "kill -9 supervisor and watcher", Weight: 1, Least: second / 2, Most: 2 * second}, inject: killing("", nowhere), undo: starting},
		{Fault: Fault{Name: "kill -9 machine", Weight: 4}, inject: killing(initWord, anywhere)},
		{Fault: Fault{Name: "kill -9 control plane", Weight: 6}, inject: killing(controlPlaneWord, onControlPlane)},
		{Fault: Fault{Name: "kill -9 node", Weight: 4}, inject: killing(nodeWord, anywhere)},
		{Fault: Fault{Name: "kill -9 shim", Weight: 2}, inject: killing(shimWord, onWorker)},
		{Fault: Fault{Name: "kill -9 container", Weight: 2}, inject: killing(journalWord, onWorker)},
		{Fault: Fault{Name: "kill -9 everything", Weight: 3}, inject: blackout, undo: starting},
		{Fault: Fault{Name: "freeze supervisor", Weight: 1, Least: second, Most: 5 * second}, inject: signalling(syscall.SIGSTOP, supervisorWord, nowhere), undo: signalling(syscall.SIGCONT, supervisorWord, nowhere)},
		{Fault: Fault{Name: "freeze control plane", Weight: 4, Least: second / 2, Most: 8 * second}, inject: signalling(syscall.SIGSTOP, controlPlaneWord, onControlPlane), undo: signalling(syscall.SIGCONT, controlPlaneWord, onControlPlane)},
		{Fault: Fault{Name: "freeze node", Weight: 3, Least: second, Most: 8 * second}, inject: signalling(syscall.SIGSTOP, nodeWord, anywhere), undo: signalling(syscall.SIGCONT, nodeWord, anywhere)},
		{Fault: Fault{Name: "freeze machine", Weight: 3, Least: second, Most: 8 * second}, inject: signalling(syscall.SIGSTOP, "", anywhere), undo: signalling(syscall.SIGCONT, "", anywhere)},
		{Fault: Fault{Name: "pause", Weight: 2, Least: second, Most: 5 * second}, inject: command("pause"), undo: command("unpause")},
		{Fault: Fault{Name: "stop", Weight: 2, Least: second / 10, Most: second}, inject: command("stop"), undo: starting},
		{Fault: Fault{Name: "stop --now", Weight: 2, Least: second / 10, Most: second}, inject: command("stop", "--now"), undo: starting},
		{Fault: Fault{Name: "restart", Weight: 1}, inject: command("restart")},
		{Fault: Fault{Name: "reboot of the host", Weight: 2}, inject: rebootHost, undo: starting},
		{Fault: Fault{Name: "cable cut", Weight: 3, Least: second, Most: 8 * second}, inject: cutting(true), undo: cutting(false)},
		{Fault: Fault{Name: "control planes parted", Weight: 6, Least: second, Most: 8 * second, Needs: several}, inject: parting(true), undo: parting(false)},
		{Fault: Fault{Name: "majority of control planes killed", Weight: 2, Needs: several}, inject: killMajority},
		{Fault: Fault{Name: "clock an hour ahead", Weight: 2, Least: 3 * second, Most: 8 * second}, inject: jumping(time.Hour), undo: jumping(0)},
		{Fault: Fault{Name: "clock an hour behind", Weight: 2, Least: 3 * second, Most: 8 * second}, inject: jumping(-time.Hour), undo: jumping(0)},
	}
	return all
}

// place chooses a machine for a target.
type place func(c *cluster, target int) string

// nowhere is where the supervisor and its watcher are.
func nowhere(*cluster, int) string { return "" }

func anywhere(c *cluster, target int) string {
	all := c.machines()
	return all[target%len(all)]
}

func onControlPlane(c *cluster, target int) string {
	all := c.controlPlanes()
	return all[target%len(all)]
}

func onWorker(c *cluster, target int) string {
	all := c.machines()[c.topology.ControlPlanes:]
	return all[target%len(all)]
}

func killing(word string, where place) func(context.Context, *cluster, int) error {
	return signalling(syscall.SIGKILL, word, where)
}

// signalling waits for a process: one that an earlier fault ended may be about
// to come back.
func signalling(sig syscall.Signal, word string, where place) func(context.Context, *cluster, int) error {
	return func(ctx context.Context, c *cluster, target int) error {
		for deadline := time.Now().Add(recoveryBound); ; sleep(ctx, recoveryPoll) {
			found := c.find(word, where(c, target))
			if len(found) > 0 || ctx.Err() != nil || time.Now().After(deadline) {
				return signal(sig, found)
			}
		}
	}
}

func command(verb string, flags ...string) func(context.Context, *cluster, int) error {
	return func(_ context.Context, c *cluster, _ int) error {
		_, err := skiff("", append([]string{verb, "cluster", "--name", c.name}, flags...)...)
		return err
	}
}

// starting is what a person does when nothing runs.
func starting(ctx context.Context, c *cluster, target int) error {
	return command("start")(ctx, c, target)
}

func blackout(_ context.Context, c *cluster, _ int) error {
	return reboot.Kill(c.name)
}

// killMajority kills the control planes' machines but a minority's, at once.
func killMajority(_ context.Context, c *cluster, target int) error {
	all := c.controlPlanes()
	var errs []error
	for i := range len(all)/2 + 1 {
		errs = append(errs, signal(syscall.SIGKILL, c.find(initWord, all[(target+i)%len(all)])))
	}
	return errors.Join(errs...)
}

// jumping sets the clock of a machine's programs, by what they read of it, an
// offset apart from the host's.
func jumping(offset time.Duration) func(context.Context, *cluster, int) error {
	return func(_ context.Context, c *cluster, target int) error {
		machine := anywhere(c, target)
		for _, p := range append(c.find(controlPlaneWord, machine), c.find(nodeWord, machine)...) {
			if err := setClock(p.PID, offset); err != nil {
				return fmt.Errorf("set the clock of %s on %s: %w", p.Command, machine, err)
			}
		}
		return nil
	}
}
