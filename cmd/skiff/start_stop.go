package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/internal/kubeconfig"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/progress"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/ready"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

// stopFlags and startFlags are what the verbs let the user choose.
type (
	stopFlags  struct{ now bool }
	startFlags struct {
		wait   time.Duration
		retain bool
	}
)

func (f *stopFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.now, "now", false, "pull the plug: Pods have no time to end")
}

func (f *startFlags) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.wait, "wait", defaultWait, "how long to wait until all nodes take Pods; 0s does not wait")
	cmd.Flags().BoolVar(&f.retain, "retain", false, "keep what runs when the command fails, for looking at it")
}

func (a *app) stopCommand() *cobra.Command {
	var f stopFlags
	return a.lifecycleCommand(lifecycle{
		verb: "stop", boot: true, flags: f.add,
		one: "Stop a cluster; start brings the same one back", several: "Stop clusters; start brings the same ones back",
		long: `Pods are asked to end and have their grace period for it, of which 30 seconds
count. Then all that the cluster has on the host is taken away but for its
directory, which keeps its addresses, ports, certificates, objects and volumes.`,
		do: func(ctx context.Context, name string) error {
			steps := a.steps()
			steps.Println("Stopping cluster %q ...", name)
			err := supervise.Stop(ctx, name, a.stopOptions(f, steps))
			steps.End(err)
			return err
		},
	})
}

func (a *app) startCommand() *cobra.Command {
	var f startFlags
	return a.lifecycleCommand(lifecycle{
		verb: "start", boot: true, flags: f.add,
		one: "Start a cluster that was stopped", several: "Start clusters that were stopped",
		long: `The same cluster comes back after a stop, the death of all its processes, or a
reboot of the host: with its addresses, ports, certificates, objects, volumes
and Pods. When the command fails or is interrupted, it is stopped again.`,
		do: func(ctx context.Context, name string) error {
			began, steps := a.now(), a.steps()
			steps.Println("Starting cluster %q ...", name)
			info, err := supervise.Start(ctx, name, a.startOptions(f, steps))
			return a.started(ctx, info, f, steps, began, err)
		},
	})
}

func (a *app) restartCommand() *cobra.Command {
	var (
		stop  stopFlags
		start startFlags
	)
	return a.lifecycleCommand(lifecycle{
		verb: "restart", flags: func(cmd *cobra.Command) { stop.add(cmd); start.add(cmd) },
		one: "Stop a cluster and start it again", several: "Stop clusters and start them again",
		do: func(ctx context.Context, name string) error {
			began, steps := a.now(), a.steps()
			steps.Println("Restarting cluster %q ...", name)
			info, err := supervise.Restart(ctx, name, a.stopOptions(stop, steps), a.startOptions(start, steps))
			return a.started(ctx, info, start, steps, began, err)
		},
	})
}

func (a *app) pauseCommand() *cobra.Command {
	return a.lifecycleCommand(lifecycle{
		verb: "pause", one: "Freeze all processes of a cluster where they are", several: "Freeze all processes of clusters where they are",
		do: func(ctx context.Context, name string) error {
			err := supervise.Pause(ctx, name)
			if err == nil {
				a.say("Paused cluster %q.", name)
			}
			return err
		},
	})
}

func (a *app) unpauseCommand() *cobra.Command {
	return a.lifecycleCommand(lifecycle{
		verb: "unpause", one: "Let a paused cluster go on", several: "Let paused clusters go on",
		do: func(ctx context.Context, name string) error {
			err := supervise.Unpause(ctx, name)
			if err == nil {
				a.say("Unpaused cluster %q.", name)
			}
			return err
		},
	})
}

func (a *app) stopOptions(f stopFlags, steps *progress.Steps) supervise.StopOptions {
	return supervise.StopOptions{Now: f.now, Progress: func(e supervise.Event) {
		switch {
		case e.Done || e.Error != "":
		case e.Step == supervise.StepPods:
			steps.Start("Ending Pods 🛑")
		case e.Step == supervise.StepDown:
			steps.Start("Taking machines away 🧹")
		}
	}}
}

func (a *app) startOptions(f startFlags, steps *progress.Steps) supervise.StartOptions {
	return supervise.StartOptions{Retain: f.retain, Within: f.wait, Progress: a.showEvents(steps)}
}

// started waits for the nodes of a cluster that was started. One that is late
// goes on starting.
func (a *app) started(ctx context.Context, info *supervise.Info, f startFlags, steps *progress.Steps, began time.Time, err error) error {
	steps.End(err)
	if err != nil {
		return err
	}
	a.warnOfDamage(ctx, info.Name, began)
	raw, err := supervise.Kubeconfig(info.Name, false)
	if err != nil {
		return err
	}
	if err := a.refresh(ctx, info.Name, raw); err != nil {
		// The cluster runs all the same.
		a.say("The kubeconfig keeps an old certificate (skiff export kubeconfig writes it anew): %v", err)
	}
	if f.wait == 0 || info.Cluster.Networking.DisableDefaultCNI {
		return nil
	}
	// Running already: nothing was started that would have to be heard of.
	since := began
	for _, m := range info.Machines {
		if m.Started.Before(began) {
			since = time.Time{}
		}
	}
	err = a.waitReady(ctx, info.Cluster, raw, since, f.wait, steps)
	steps.End(err)
	var late *ready.Error
	switch {
	case errors.As(err, &late):
		a.sayLate(ctx, info.Name)
		return &mended{fmt.Errorf("not ready after %v: %w", f.wait, late), fmt.Sprintf(
			"it goes on starting: skiff get nodes --name %[1]s -o wide, skiff export logs --name %[1]s", info.Name)}
	case err == nil:
		steps.Done("Ready after %s 💚", progress.Seconds(a.now().Sub(began)))
	}
	return err
}

// warnOfDamage names the etcd members that a start has found damaged while the
// others are enough, and kubelets that do not start.
func (a *app) warnOfDamage(ctx context.Context, name string, began time.Time) {
	info, err := supervise.Get(ctx, name)
	if err != nil {
		return // the cluster runs, which was the question
	}
	if info.Trouble != "" {
		a.say("Warning: %s\n  Mend: %s", info.Trouble, info.Mend)
	}
	a.sayNodes(info, began)
}

// sayLate says of a cluster that is not ready in time what is known of why.
func (a *app) sayLate(ctx context.Context, name string) {
	if info, err := supervise.Get(context.WithoutCancel(ctx), name); err == nil {
		a.sayNodes(info, a.now())
	}
}

// refresh gives the user's kubeconfigs, those of now and those that the
// cluster remembers, a certificate that a start has renewed.
func (a *app) refresh(ctx context.Context, cluster string, raw []byte) error {
	_, err := a.kubeconfigs("").Refresh(ctx, kubeconfig.ContextName(cluster), raw)
	if pathless, ok := errors.AsType[*kubeconfig.Error](err); ok && pathless.Path == "~/.kube/config" {
		err = nil // at the host's boot there is no user
	}
	files, filesErr := supervise.Kubeconfigs(cluster)
	return errors.Join(err, filesErr, refreshKubeconfigs(ctx, cluster, raw, files))
}
