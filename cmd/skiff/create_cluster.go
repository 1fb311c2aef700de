package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1alpha1 "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/hostcheck"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/kubeconfig"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/progress"
	"github.com/skiff-k8s/skiff/cmd/skiff/internal/ready"
	"github.com/skiff-k8s/skiff/hostnode/supervise"
)

type createOptions struct {
	name, config, image, kubeconfig string
	retain, hostDNS                 bool
	wait                            time.Duration
	// waitSet says that the user named wait.
	waitSet bool
}

// defaultWait is thirty times what a cluster takes, and short enough for
// somebody who sits and waits.
const defaultWait = 30 * time.Second

func (a *app) createClusterCommand() *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Create a cluster and set kubectl's context to it",
		Long: `Create a cluster and set kubectl's context to it.

Without --config, the cluster is one node. A config file is "kind: Cluster" of
skiff.cluster/v1alpha1, or of kind.x-k8s.io/v1alpha4. When the command fails or
is interrupted, everything that it made is taken away again.

With -v N the cluster's own programs log as much too, for as long as it lives:
Kubernetes' parts at klog's level N, so 2 for what upstream runs in production
and 4 for debugging. "skiff logs" and "skiff export logs" show it.`,
		Example: `  skiff create cluster
  skiff create cluster --name dev --config three-nodes.yaml
  skiff create cluster --name ci --config - --kubeconfig ./ci.kubeconfig --wait 0s < cluster.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.waitSet = cmd.Flags().Changed("wait")
			return a.createCluster(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.name, "name", "n", "", "the cluster's name, before $"+EnvClusterName+" and the config file's (default \""+v1alpha1.DefaultName+"\")")
	f.StringVar(&o.config, "config", "", "a config file, or - for stdin")
	f.StringVar(&o.image, "image", "", "accepted for kind's scripts: kindest/node:v"+v1alpha1.KubernetesMinor+".x, as nodes have no image")
	f.BoolVar(&o.retain, "retain", false, "keep what was made when the command fails, for looking at it")
	f.BoolVar(&o.hostDNS, "host-dns", false, "make the cluster's names (*.svc.cluster.local) resolve on this host until it is deleted")
	f.DurationVar(&o.wait, "wait", defaultWait, "how long to wait until all nodes take Pods; 0s does not wait")
	kubeconfigFlag(cmd, &o.kubeconfig)
	return cmd
}

func (a *app) createCluster(ctx context.Context, o createOptions) error {
	began := a.now()
	c, err := a.readConfig(o.config)
	if err != nil {
		return fmt.Errorf("create cluster: %w", err)
	}
	if err := a.complete(c, o); err != nil {
		return fmt.Errorf("create cluster %q: %w", c.Name, err)
	}
	files := a.kubeconfigs(o.kubeconfig)
	if err := checkHost(c); err != nil {
		return fmt.Errorf("create cluster %q: %w", c.Name, err)
	}
	steps := a.steps()
	steps.Println("Creating cluster %q ...", c.Name)
	for _, w := range v1alpha1.Warnings(c) {
		steps.Println("Warning: %s", w)
	}
	_, err = supervise.Create(ctx, supervise.CreateOptions{Cluster: c, Verbosity: a.verbosity, Retain: o.retain, Within: o.wait, Progress: a.showEvents(steps)})
	steps.End(err)
	if err == nil {
		err = a.finishCluster(ctx, c, o, files, steps, began)
	}
	return a.about(fmt.Sprintf("create cluster %q", c.Name), interrupted(ctx, err, o.retain))
}

// interrupted says what became of an interrupted create, unless its rollback
// failed and err has more to say.
func interrupted(ctx context.Context, err error, retain bool) error {
	several := false
	for e := err; e != nil && !several; e = errors.Unwrap(e) {
		_, several = e.(interface{ Unwrap() []error })
	}
	switch {
	case err == nil, ctx.Err() == nil, several:
		return err
	case retain:
		return errors.New("interrupted; what it had made is kept")
	default:
		return errors.New("interrupted; what it had made is taken away again")
	}
}

// showEvents turns the events of a create into kind's steps.
func (a *app) showEvents(steps *progress.Steps) func(supervise.Event) {
	first := true
	return func(e supervise.Event) {
		slog.Info("create", "step", e.Step, "machine", e.Machine, "done", e.Done, "took", e.Took)
		if e.Note != "" {
			steps.Println("Note: %s", e.Note)
		}
		switch {
		case first:
			first = false
			steps.Start("Preparing machines 📦")
		case e.Step == supervise.StepServer && !e.Done && e.Error == "":
			steps.Start("Starting control-plane 🕹️")
		}
	}
}

// checkHost asks for privileges and the kernel's features before anything is
// made.
func checkHost(c *v1alpha1.Cluster) error {
	if err := hostcheck.Root("create cluster"); err != nil {
		return err
	}
	return hostcheck.Cluster(len(c.Nodes))
}

// finishCluster hands a running cluster to the user: kubectl's context, and
// the wait until it takes Pods.
func (a *app) finishCluster(ctx context.Context, c *v1alpha1.Cluster, o createOptions, files kubeconfig.Files, steps *progress.Steps, began time.Time) (err error) {
	late := false
	defer func() {
		steps.End(err)
		if err == nil || o.retain || late {
			return
		}
		err = errors.Join(err, a.rollBack(ctx, c.Name, files))
	}()
	raw, err := supervise.Kubeconfig(c.Name, false)
	if err != nil {
		return err
	}
	kctx := kubeconfig.ContextName(c.Name)
	if err := a.setContext(ctx, files, c.Name, raw); err != nil {
		return err
	}
	switch {
	case c.Networking.DisableDefaultCNI && !o.waitSet:
		steps.Done("Nodes wait for a CNI plugin 🔌")
	case o.wait > 0:
		if err := a.waitReady(ctx, c, raw, time.Time{}, o.wait, steps); err != nil {
			// A cluster that is late may yet come: it is kept, as kind does,
			// and so that its logs can be read.
			var missing *ready.Error
			if late = errors.As(err, &missing); late {
				a.sayLate(ctx, c.Name)
			}
			return err
		}
		steps.Done("Ready after %s 💚", progress.Seconds(a.now().Sub(began)))
	}
	a.say("Set kubectl context to %q", kctx)
	usage := "kubectl cluster-info --context " + kctx
	if o.kubeconfig != "" {
		usage += " --kubeconfig " + shellQuote(o.kubeconfig)
	}
	a.say("You can now use your cluster with:\n\n%s", usage)
	return nil
}

// waitReady waits until a `kubectl apply` finds all that it needs, from nodes
// that were heard of since then.
func (a *app) waitReady(ctx context.Context, c *v1alpha1.Cluster, raw []byte, since time.Time, wait time.Duration, steps *progress.Steps) error {
	client, err := ready.NewClient(raw)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	names := make([]string, 0, len(c.Nodes))
	for _, n := range c.Nodes {
		names = append(names, n.Name)
	}
	steps.Start(map[bool]string{true: "Joining worker nodes 🚜", false: "Starting node 🚜"}[len(names) > 1])
	if err := client.Nodes(ctx, names, since); err != nil {
		return lateError(c.Name, wait, err)
	}
	return lateError(c.Name, wait, client.FirstPod(ctx))
}

// lateError tells what to do with a cluster that is not ready in time.
func lateError(name string, wait time.Duration, err error) error {
	var missing *ready.Error
	if !errors.As(err, &missing) {
		return err
	}
	return &mended{fmt.Errorf("not ready after %v: %w", wait, err), fmt.Sprintf(
		"the cluster is kept: skiff get nodes --name %[1]s -o wide, skiff export logs --name %[1]s; give it longer with --wait; or skiff delete cluster --name %[1]s", name)}
}

// rollBackBound is generous: a delete takes half a second, and the user has
// already pressed ^C.
const rollBackBound = 30 * time.Second

// rollBack takes a cluster away whose creation failed after it ran; ctx may
// be the reason, and is only read for its values.
func (a *app) rollBack(ctx context.Context, name string, files kubeconfig.Files) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackBound)
	defer cancel()
	err := errors.Join(supervise.Delete(ctx, name), files.Remove(ctx, kubeconfig.ContextName(name)))
	if err != nil {
		return &mended{fmt.Errorf("roll back: %w", err), "skiff delete cluster --name " + name}
	}
	return nil
}

// complete puts what flags say over c, and checks it.
func (a *app) complete(c *v1alpha1.Cluster, o createOptions) error {
	if name := o.name; name != "" {
		c.Name = name
	} else if name := a.getenv(EnvClusterName); name != "" {
		c.Name = name
	}
	var errs field.ErrorList
	if o.name != "" {
		errs = v1alpha1.ValidateName(o.name, field.NewPath("--name"))
	}
	if o.image != "" {
		errs = append(errs, v1alpha1.ValidateImage(o.image, field.NewPath("--image"))...)
		for i := range c.Nodes {
			c.Nodes[i].Image = o.image
		}
	}
	if o.hostDNS {
		c.Networking.HostDNS = true
	}
	dir, err := a.workDir()
	if err != nil {
		return err
	}
	c.ResolvePaths(dir)
	v1alpha1.SetDefaults(c)
	if len(errs) == 0 {
		if errs = v1alpha1.Validate(c); len(errs) > 0 {
			return configError(o.config, &v1alpha1.InvalidError{Errs: errs})
		}
	}
	if len(errs) > 0 {
		return &v1alpha1.InvalidError{Errs: errs}
	}
	return nil
}

func (a *app) readConfig(path string) (*v1alpha1.Cluster, error) {
	var c *v1alpha1.Cluster
	var err error
	switch path {
	case "":
		return &v1alpha1.Cluster{}, nil
	case "-":
		c, err = v1alpha1.Read(a.In)
	default:
		c, err = v1alpha1.LoadFile(path)
	}
	return c, configError(path, err)
}

// configError names the file.
func configError(path string, err error) error {
	// The path is said once.
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	switch {
	case err == nil:
		return nil
	case path == "":
		return err
	case path == "-":
		return fmt.Errorf("config from stdin: %w", err)
	default:
		return fmt.Errorf("config %s: %w", path, err)
	}
}
