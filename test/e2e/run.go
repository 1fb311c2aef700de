package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// root is the repository: tests run in test/e2e.
var root = func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}()

// fail ends the running spec; the suite sets it to ginkgo's.
var fail = func(message string) { panic(message) }

// result of a program that was run to its end.
type result struct {
	out, errOut string
	code        int
	took        time.Duration
}

// run starts a program with a bound of two minutes and waits for it.
func run(stdin string, name string, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	// A supervisor that a command leaves behind must not keep its pipes.
	cmd.WaitDelay = time.Second
	start := time.Now()
	err := cmd.Run()
	r := result{out: out.String(), errOut: errOut.String(), took: time.Since(start)}
	if cmd.ProcessState != nil {
		r.code = cmd.ProcessState.ExitCode()
	}
	if err != nil && r.code == 0 {
		r.code, r.errOut = -1, r.errOut+err.Error()
	}
	return r
}

// must fails the running spec when the program failed.
func (r result) must() string {
	if r.code != 0 {
		fail(fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.out, r.errOut))
	}
	return r.out
}

// cluster is one that a spec made; its kubeconfig is a file of its own.
type cluster struct {
	name, kubeconfig string
}

func skiff(args ...string) result { return run("", filepath.Join(root, "bin/skiff"), args...) }

// create makes a cluster from a config; empty means the default config.
func create(name, config string, flags ...string) (cluster, result) {
	c := cluster{name: name, kubeconfig: filepath.Join(os.TempDir(), "skiff-e2e-"+name+".kubeconfig")}
	args := append([]string{"create", "cluster", "--name", name, "--kubeconfig", c.kubeconfig}, flags...)
	if config != "" {
		args = append(args, "--config", "-")
	}
	return c, run(config, filepath.Join(root, "bin/skiff"), args...)
}

func (c cluster) delete() result {
	r := skiff("delete", "cluster", "--name", c.name, "--kubeconfig", c.kubeconfig)
	os.Remove(c.kubeconfig)
	return r
}

// kubectl runs stock kubectl of our version against the cluster.
func (c cluster) kubectl(args ...string) result {
	return run("", filepath.Join(root, "_output/bin/kubectl"), append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
}

// apply sends a manifest.
func (c cluster) apply(manifest string) result {
	return run(manifest, filepath.Join(root, "_output/bin/kubectl"), "--kubeconfig", c.kubeconfig, "apply", "-f", "-")
}

// get reads one field of an object by JSONPath; empty when it is not there.
func (c cluster) get(object, path string, flags ...string) string {
	return c.kubectl(append([]string{"get", object, "--ignore-not-found", "-o", "jsonpath=" + path}, flags...)...).out
}

// warnings are the Events of that type of an object, a line each.
func (c cluster) warnings(object string) string {
	return c.kubectl("events", "--for", object, "--types=Warning", "--no-headers").out
}

// interruptedCreate sends SIGINT to a create after a while, as ^C does, and
// waits for it; a create that was faster is deleted.
func interruptedCreate(name string, after time.Duration) {
	c := cluster{name: name, kubeconfig: filepath.Join(os.TempDir(), "skiff-e2e-"+name+".kubeconfig")}
	cmd := exec.Command(filepath.Join(root, "bin/skiff"), "create", "cluster", "--name", name, "--kubeconfig", c.kubeconfig)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		fail(err.Error())
	}
	time.Sleep(after)
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err == nil {
		c.delete().must()
	}
	os.Remove(c.kubeconfig)
}
