package stats

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	cadvisor "github.com/google/cadvisor/lib/model"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	critesting "k8s.io/cri-api/pkg/apis/testing"
	"k8s.io/klog/v2"
)

func provider(t *testing.T, cfg Config) *Provider {
	t.Helper()
	cfg.Name, cfg.RootDir, cfg.ImageDir = "c/n", t.TempDir(), t.TempDir()
	if cfg.Runtime == nil {
		cfg.Runtime = critesting.NewFakeRuntimeService()
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheDeclaredCapacityIsTheMachines(t *testing.T) {
	declared, err := provider(t, Config{CPU: 3, MemoryBytes: 5 << 30}).MachineInfo(klog.Background())
	if err != nil {
		t.Fatal(err)
	}
	if declared.NumCores != 3 || declared.MemoryCapacity != 5<<30 {
		t.Errorf("declared 3 CPUs and 5 GiB, got %d and %d", declared.NumCores, declared.MemoryCapacity)
	}
	threads := 0
	for _, node := range declared.Topology {
		for _, core := range node.Cores {
			threads += len(core.Threads)
		}
	}
	if threads != 3 {
		t.Errorf("the topology places %d CPUs, want 3", threads)
	}

	host, err := provider(t, Config{}).MachineInfo(klog.Background())
	if err != nil {
		t.Fatal(err)
	}
	if host.NumCores < runtime.NumCPU() || host.MemoryCapacity == 0 {
		t.Errorf("declared nothing, got %d CPUs and %d bytes", host.NumCores, host.MemoryCapacity)
	}
	for name, id := range map[string]string{"machine id": host.MachineID, "system UUID": host.SystemUUID, "boot id": host.BootID} {
		if len(id) < 32 {
			t.Errorf("%s is %q", name, id)
		}
	}
	if hostID, err := os.ReadFile("/etc/machine-id"); err == nil && string(hostID) == host.MachineID+"\n" {
		t.Error("the machine has the host's machine id")
	}
}

// The host's pool is the node's if its memory is.
func TestHugePagesAreTheHosts(t *testing.T) {
	pools, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		cfg  Config
		want int
	}{
		{"nothing declared", Config{}, len(pools)},
		{"CPUs declared", Config{CPU: 1}, len(pools)},
		{"memory declared", Config{MemoryBytes: 1 << 30}, 0},
	} {
		info, err := provider(t, tc.cfg).MachineInfo(klog.Background())
		if err != nil {
			t.Fatal(err)
		}
		if len(info.HugePages) != tc.want {
			t.Errorf("%s: %v, want %d sizes", tc.name, info.HugePages, tc.want)
		}
		for _, pool := range info.HugePages {
			pages, err := os.ReadFile(fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/nr_hugepages", pool.PageSize))
			if err != nil || strings.TrimSpace(string(pages)) != strconv.FormatUint(pool.NumPages, 10) {
				t.Errorf("%s: %d pages of %d kB, the kernel has %s (%v)", tc.name, pool.NumPages, pool.PageSize, pages, err)
			}
		}
	}
}

func TestFileSystems(t *testing.T) {
	p := provider(t, Config{})
	root, err := p.RootFsInfo()
	if err != nil {
		t.Fatal(err)
	}
	images, err := p.ImagesFsInfo(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if root.Device != images.Device {
		t.Errorf("two directories of one file system are on %s and %s", root.Device, images.Device)
	}
	if root.Capacity == 0 || root.Available > root.Capacity || *root.InodesFree > *root.Inodes {
		t.Errorf("file system is %+v", root)
	}
	other, err := p.GetDirFsInfo("/proc")
	if err != nil {
		t.Fatal(err)
	}
	if other.Device == root.Device {
		t.Errorf("/proc is on %s, like the root directory", other.Device)
	}
	if _, err := p.GetDirFsInfo(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
}

// cgroupWithBusyProcess makes <name>/pod<uid>/<id> in every hierarchy, with a
// process in it that uses all the CPU time it gets.
func cgroupWithBusyProcess(t *testing.T, p *Provider, name, pod, id string) {
	t.Helper()
	// Memory belongs to the cgroup in which it was first used.
	busy := exec.Command("/bin/sh", "-c", "read go; x=$(head -c 8388608 /dev/zero | tr '\\0' x); while :; do :; done")
	start, err := busy.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { busy.Process.Kill(); busy.Wait() })
	for _, mount := range p.subsystems {
		dir := filepath.Join(mount, name)
		for _, sub := range []string{"", pod, id} {
			dir = filepath.Join(dir, sub)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				t.Fatal(err)
			}
			inheritCPUs(t, dir)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(busy.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			busy.Process.Kill()
			busy.Wait()
			for _, d := range []string{filepath.Join(name, pod, id), filepath.Join(name, pod), name} {
				if err := remove(filepath.Join(mount, d)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if _, err := start.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
}

// inheritCPUs makes a new v1 cpuset usable.
func inheritCPUs(t *testing.T, dir string) {
	t.Helper()
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.clone_children")); err != nil {
			return // v2
		}
		parents, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return // another controller
		}
		if err := os.WriteFile(filepath.Join(dir, file), parents, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// remove waits for a killed process to leave the cgroup.
func remove(dir string) error {
	var err error
	for range 100 {
		if err = os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func TestUsageIsReadFromTheCgroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes cgroups: needs root")
	}
	const uid = "4f387cd2-2963-4c5c-9cae-6eb73bf3a249"
	id := identity("container", t.Name())
	sandbox := identity("sandbox", t.Name())
	runtime := critesting.NewFakeRuntimeService()
	labels := map[string]string{"io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": uid}
	runtime.SetFakeSandboxes([]*critesting.FakePodSandbox{{PodSandboxStatus: runtimeapi.PodSandboxStatus{
		Id: sandbox, Labels: labels, State: runtimeapi.PodSandboxState_SANDBOX_READY,
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: uid},
	}}})
	runtime.SetFakeContainers([]*critesting.FakeContainer{{SandboxID: sandbox, ContainerStatus: runtimeapi.ContainerStatus{
		Id: id, Labels: labels, State: runtimeapi.ContainerState_CONTAINER_RUNNING, Metadata: &runtimeapi.ContainerMetadata{Name: "c"},
		Image: &runtimeapi.ImageSpec{Image: "i"},
	}}})
	p := provider(t, Config{Runtime: runtime})
	root := fmt.Sprintf("/skiff-stats-%d", os.Getpid())
	pod := filepath.Join(root, "pod"+uid)
	cgroupWithBusyProcess(t, p, root, "pod"+uid, id)

	now := time.Duration(0)
	read := func() map[string]cadvisor.ContainerInfo {
		t.Helper()
		infos, err := p.ContainerInfoV2(root, cadvisor.RequestOptions{Recursive: true, MaxAge: &now})
		if err != nil {
			t.Fatal(err)
		}
		return infos
	}
	read()
	time.Sleep(500 * time.Millisecond)
	infos := read()
	if len(infos) != 4 {
		t.Errorf("%d cgroups, want the root, the pod, its container and its sandbox: %v", len(infos), infos)
	}

	container := infos[filepath.Join(pod, id)]
	if container.Spec.Labels["io.kubernetes.pod.name"] != "p" || !container.Spec.HasCpu || !container.Spec.HasMemory || container.Id != id {
		t.Errorf("container is %+v", container.Spec)
	}
	for _, name := range []string{filepath.Join(pod, id), pod, root} {
		samples := infos[name].Stats
		if len(samples) != 2 {
			t.Fatalf("%s has %d samples, want 2", name, len(samples))
		}
		before, last := samples[0], samples[1]
		used := float64(last.Cpu.Usage.Total - before.Cpu.Usage.Total)
		rate := used / last.Timestamp.Sub(before.Timestamp).Seconds()
		if used == 0 || last.CpuInst == nil || math.Abs(float64(last.CpuInst.Usage.Total)-rate) > rate/100 {
			t.Errorf("%s uses %+v nanocores, and used %v ns, so %v", name, last.CpuInst, used, rate)
		}
		if last.Memory == nil || last.Memory.Usage < 4<<20 {
			t.Errorf("%s uses memory %+v", name, last.Memory)
		}
	}
	if infos[pod].Spec.HasNetwork {
		t.Error("the pod's network is counted twice")
	}
	network := infos[filepath.Join(pod, sandbox)]
	if !network.Spec.HasNetwork || network.Spec.Labels["io.kubernetes.pod.name"] != "p" || len(network.Stats) == 0 || network.Stats[0].Network == nil {
		t.Errorf("sandbox is %+v", network)
	}

	// Who does not insist gets the sample that is there.
	again, err := p.ContainerInfoV2(root, cadvisor.RequestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != 1 || !again[root].Stats[1].Timestamp.Equal(infos[root].Stats[1].Timestamp) {
		t.Error("a fresh sample was read again")
	}
	if _, err := p.ContainerInfoV2("/skiff-none", cadvisor.RequestOptions{}); err == nil {
		t.Error("a cgroup that is not there has figures")
	}
}
