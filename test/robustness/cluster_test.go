//go:build robustness

package robustness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"

	"github.com/skiff-k8s/skiff/test/processes"
)

const (
	stateDir = "/var/lib/skiff/clusters"
	runDir   = "/run/skiff"
	// requestBound is how long a client waits before it takes an answer for
	// lost: ten times the slowest without a fault.
	requestBound = 2 * time.Second
)

// cluster under test.
type cluster struct {
	name     string
	topology Topology
	config   *rest.Config
	// addresses of the machines.
	addresses map[string]string
}

// skiff runs bin/skiff and returns its output and whether it succeeded.
func skiff(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "../../bin/skiff", args...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	// A supervisor that it leaves behind must not keep its pipes.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("skiff %s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String(), err
}

// create makes a cluster; the suite deletes it at the end of the spec.
func create(name string, t Topology, durability string) *cluster {
	GinkgoHelper()
	config := "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\ndurability: " + durability + "\nnodes:\n" +
		strings.Repeat("- role: control-plane\n", t.ControlPlanes) + strings.Repeat("- role: worker\n", t.Workers)
	kubeconfig := filepath.Join(GinkgoT().TempDir(), "kubeconfig")
	DeferCleanup(func() {
		if CurrentSpecReport().Failed() {
			_, _ = skiff("", "export", "logs", "../../_output/robustness-logs", "--name", name)
		}
		_, err := skiff("", "delete", "cluster", "--name", name, "--kubeconfig", kubeconfig)
		Expect(err).NotTo(HaveOccurred())
	})
	_, err := skiff(config, "create", "cluster", "--name", name, "--kubeconfig", kubeconfig, "--config", "-")
	Expect(err).NotTo(HaveOccurred())
	c := &cluster{name: name, topology: t}
	c.config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	Expect(err).NotTo(HaveOccurred())
	c.config.QPS = -1
	c.addresses, err = c.readAddresses()
	Expect(err).NotTo(HaveOccurred())
	return c
}

func (c *cluster) readAddresses() (map[string]string, error) {
	out, err := skiff("", "get", "nodes", "--name", c.name, "-o", "json")
	if err != nil {
		return nil, err
	}
	var nodes []struct{ Name, IP string }
	if err := json.Unmarshal([]byte(out), &nodes); err != nil {
		return nil, err
	}
	addresses := map[string]string{}
	for _, n := range nodes {
		addresses[n.Name] = n.IP
	}
	return addresses, nil
}

// info is the cluster as get clusters tells it.
type info struct {
	Name, State, Trouble                                     string
	NodeSubnet, PodSubnet, ServiceSubnet, LoadBalancerSubnet string
}

func (c *cluster) info() (info, error) {
	out, err := skiff("", "get", "clusters", "-o", "json")
	if err != nil {
		return info{}, err
	}
	var all []info
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return info{}, err
	}
	for _, i := range all {
		if i.Name == c.name {
			return i, nil
		}
	}
	return info{}, fmt.Errorf("get clusters does not have %s", c.name)
}

// ranges of addresses that are the cluster's.
func (c *cluster) ranges() ([]netip.Prefix, error) {
	i, err := c.info()
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, text := range []string{i.NodeSubnet, i.PodSubnet, i.ServiceSubnet, i.LoadBalancerSubnet} {
		for _, one := range strings.Split(text, ",") {
			p, err := netip.ParsePrefix(one)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	return all, nil
}

// client with connections of its own; reset closes them, so that the next
// request does not wait on one that leads nowhere.
func (c *cluster) client() (client *kubernetes.Clientset, reset func(), err error) {
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: requestBound}).DialContext)
	config := rest.CopyConfig(c.config)
	config.Dial = dialer.DialContext
	client, err = kubernetes.NewForConfig(config)
	return client, dialer.CloseAll, err
}

// machines in the order of the config.
func (c *cluster) machines() []string {
	return append(c.numbered("control-plane", c.topology.ControlPlanes), c.numbered("worker", c.topology.Workers)...)
}

func (c *cluster) controlPlanes() []string {
	return c.numbered("control-plane", c.topology.ControlPlanes)
}

func (c *cluster) numbered(role string, n int) []string {
	var names []string
	for i := range n {
		name := c.name + "-" + role
		if i > 0 {
			name += strconv.Itoa(i + 1)
		}
		names = append(names, name)
	}
	return names
}

// dir of a machine on the host.
func (c *cluster) dir(machine string) string {
	return filepath.Join(stateDir, c.name, "machines", machine)
}

// processes of the cluster that run.
func (c *cluster) processes() []processes.Process {
	all, err := processes.Of(c.name)
	Expect(err).NotTo(HaveOccurred())
	return all
}

// find lists the processes with a word of their command line, on a machine.
func (c *cluster) find(word, machine string) []processes.Process {
	return slices.DeleteFunc(c.processes(), func(p processes.Process) bool {
		return !strings.Contains(p.Command, word) || p.Machine != machine
	})
}

// signal the processes; those that have ended are fine.
func signal(sig syscall.Signal, found []processes.Process) error {
	if len(found) == 0 {
		return fmt.Errorf("no process to send %v to", sig)
	}
	for _, p := range found {
		if err := syscall.Kill(p.PID, sig); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("%v to %d (%s): %w", sig, p.PID, p.Command, err)
		}
	}
	return nil
}
