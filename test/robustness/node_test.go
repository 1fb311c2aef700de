//go:build robustness

package robustness

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/test/processes"
)

// node is a machine seen from the host, whose containerd and kubelet are one
// process that may be killed.
type node struct {
	c    *cluster
	name string
	// init is the machine's first process.
	init int
	// kills since the process was last left alone for long, and when its
	// present life was first seen.
	kills int
	born  time.Time
}

func (c *cluster) node(name string) *node {
	inits := c.find(initWord, name)
	Expect(inits).To(HaveLen(1))
	return &node{c: c, name: name, init: inits[0].PID, born: time.Now()}
}

// at is a path of the machine as the host reaches it.
func (n *node) at(path string) string { return fmt.Sprintf("/proc/%d/root%s", n.init, path) }

// process is the node's, 0 while there is none. A child of it that has not yet
// become another program has the same command line, and after the death of
// its parent the same parent.
func (n *node) process() int {
	all := slices.DeleteFunc(n.c.find(nodeWord, n.name), func(p processes.Process) bool { return p.Parent != n.init })
	if len(all) != 1 {
		return 0
	}
	return all[0].PID
}

// The machine's init waits longer before each restart of a process that keeps
// dying, and forgets that after ten seconds of life: a burst of kills stays
// below a second's wait.
const (
	burst     = 7
	longAlive = 10500 * time.Millisecond
)

// rest lets the process live long before the next burst.
func (n *node) rest(ctx context.Context) {
	if n.kills%burst == 0 && n.kills > 0 {
		sleep(ctx, time.Until(n.born.Add(longAlive)))
	}
}

// kill the process, and wait until there is another one.
func (n *node) kill() error {
	old := n.other(0)
	if old == 0 {
		return fmt.Errorf("%s: no process to kill", n.name)
	}
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %d: %w", old, err)
	}
	n.kills++
	if n.other(old) == 0 {
		return fmt.Errorf("%s: no new process %v after its death", n.name, recoveryBound)
	}
	n.born = time.Now()
	return nil
}

// other waits for a process that is not the old one.
func (n *node) other(old int) int {
	for deadline := time.Now().Add(recoveryBound); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if pid := n.process(); pid != 0 && pid != old {
			return pid
		}
	}
	return 0
}

// cri calls the node's containerd as crictl does.
func (n *node) cri(ctx context.Context, call func(context.Context, runtimeapi.RuntimeServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+n.at(machinev1alpha1.ContainerdSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	return call(ctx, runtimeapi.NewRuntimeServiceClient(conn))
}

// duplicates are Pods with two sandboxes, and containers with two processes.
func (n *node) duplicates(ctx context.Context) (twice []string, err error) {
	err = n.cri(ctx, func(ctx context.Context, client runtimeapi.RuntimeServiceClient) error {
		sandboxes, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
			State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}})
		if err != nil {
			return err
		}
		containers, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
			State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}})
		if err != nil {
			return err
		}
		seen := map[string]int{}
		for _, s := range sandboxes.Items {
			seen["sandbox of pod "+s.Metadata.Name+" "+s.Metadata.Uid]++
		}
		for _, c := range containers.Containers {
			seen["container "+c.Metadata.Name+" of pod "+c.Labels["io.kubernetes.pod.name"]+" "+c.Labels["io.kubernetes.pod.uid"]]++
		}
		for what, times := range seen {
			if times > 1 {
				twice = append(twice, what)
			}
		}
		return nil
	})
	return twice, err
}

// tidy removes the sandboxes that have ended, which the kubelet does once a
// minute for Pods that are gone.
func (n *node) tidy(ctx context.Context) error {
	return n.cri(ctx, func(ctx context.Context, client runtimeapi.RuntimeServiceClient) error {
		dead, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
			State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}}})
		if err != nil {
			return err
		}
		for _, s := range dead.Items {
			if _, err := client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
				return err
			}
		}
		return nil
	})
}

// podDirs have an entry or more for each Pod of the node.
var podDirs = []string{
	machinev1alpha1.KubeletDir + "/pods/*",
	machinev1alpha1.RunDir + "/cni/*.json",
	machinev1alpha1.ContainerdState + "/io.containerd.grpc.v1.cri/*/*",
	machinev1alpha1.ContainerdState + "/io.containerd.runtime.v2.task/k8s.io/*",
	machinev1alpha1.ContainerdState + "/io.containerd.sandbox.controller.v1.skiff/*",
	machinev1alpha1.ContainerdState + "/runc/k8s.io/*",
	machinev1alpha1.ContainerdRoot + "/io.containerd.grpc.v1.cri/*/*",
	machinev1alpha1.ContainerdRoot + "/io.containerd.runtime.v2.task/k8s.io/*",
	machinev1alpha1.ContainerdRoot + "/io.containerd.sandbox.controller.v1.skiff/*",
}

// logDirs too, but the kubelet removes those of Pods that are gone only once a
// minute.
var logDirs = []string{"/var/log/pods/*", "/var/log/containers/*"}

// remains are all traces of Pods on the node.
func (n *node) remains() ([]string, error) {
	var all []string
	for _, p := range n.c.processes() {
		if p.Machine == n.name {
			all = append(all, "process "+p.Command)
		}
	}
	for _, list := range []func() ([]string, error){n.mounts, n.cgroups, n.devices, n.records} {
		some, err := list()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	for _, pattern := range podDirs {
		files, err := filepath.Glob(n.at(pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			all = append(all, "file "+strings.TrimPrefix(f, n.at("")))
		}
	}
	slices.Sort(all)
	return all, nil
}

func (n *node) mounts() ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.init))
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 {
			all = append(all, "mount "+f[4])
		}
	}
	return all, nil
}

func (n *node) cgroups() ([]string, error) {
	roots, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/*/skiff", n.c.name, n.name))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, root := range append(roots, filepath.Join("/sys/fs/cgroup/skiff", n.c.name, n.name)) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() { // directories come and go while we walk
				all = append(all, "cgroup "+path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (n *node) devices() ([]string, error) {
	ns, err := netns.GetFromPid(n.init)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	links, err := fabric.Dump(handle.LinkList)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, l := range links {
		all = append(all, "device "+l.Attrs().Name)
	}
	return all, nil
}
