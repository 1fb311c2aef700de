package stats

import (
	"fmt"
	"os"
	"path"
	"time"

	"github.com/google/cadvisor/lib/container/common"
	"github.com/google/cadvisor/lib/container/libcontainer"
	cadvisor "github.com/google/cadvisor/lib/model"
)

// cgroup is one control group with its last two samples: two, because the
// kubelet tells usage per second from their difference.
type cgroup struct {
	handler *libcontainer.Handler
	paths   map[string]string
	pid     int
	samples []*cadvisor.ContainerStats
}

// listRoot is the hierarchy whose directories are the list of cgroups: the
// memory controller's, or the unified one.
func (p *Provider) listRoot() string {
	if root, ok := p.subsystems[""]; ok {
		return root
	}
	return p.subsystems["memory"]
}

func (p *Provider) exists(name string) bool {
	_, err := os.Stat(path.Join(p.listRoot(), name))
	return err == nil
}

// sample reads the cgroup unless the last sample is younger than age.
func (p *Provider) sample(name string, age time.Duration, owners owners) (*cadvisor.ContainerInfo, error) {
	owner := owners.of(name)
	c := p.cgroups[name]
	if c == nil || (c.pid == 0 && owner.pod) {
		made, err := p.open(name, owner)
		if err != nil {
			return nil, err
		}
		if c != nil {
			made.samples = c.samples
		}
		p.cgroups[name], c = made, made
	}

	if n := len(c.samples); n == 0 || time.Since(c.samples[n-1].Timestamp) >= age {
		stats, err := c.handler.GetStats()
		if err != nil {
			delete(p.cgroups, name)
			return nil, fmt.Errorf("read cgroup %s: %w", name, err)
		}
		c.add(stats)
	}

	spec, err := common.GetSpec(c.paths, p, c.pid != 0, false)
	if err != nil {
		return nil, fmt.Errorf("read limits of cgroup %s: %w", name, err)
	}
	if name == "/" {
		// The machine's own limit is its declared memory, whatever stands in
		// the cgroup of a machine that declares none.
		spec.HasMemory = true
		spec.Memory.Limit = p.machine.MemoryCapacity
	}
	spec.Labels = owner.labels
	spec.Image = owner.image
	info := &cadvisor.ContainerInfo{
		ContainerReference: cadvisor.ContainerReference{Name: name},
		Spec:               spec,
		Stats:              append([]*cadvisor.ContainerStats(nil), c.samples...),
	}
	if owner.id != "" {
		info.Id, info.Namespace, info.Aliases = owner.id, "containerd", []string{owner.id, name}
	}
	return info, nil
}

// minRateWindow is the shortest time over which usage per second is told:
// over less, one time slice more or less would decide.
const minRateWindow = time.Second

// add keeps stats and the sample before it from which a rate can be told.
func (c *cgroup) add(stats *cadvisor.ContainerStats) {
	n := len(c.samples)
	if n == 2 && stats.Timestamp.Sub(c.samples[1].Timestamp) < minRateWindow {
		n = 1
	}
	if n > 0 {
		before := c.samples[n-1]
		// An error means that the counters restarted: there is no rate.
		stats.CpuInst, _ = cadvisor.InstCpuStats(before, stats)
		c.samples = []*cadvisor.ContainerStats{before}
	}
	c.samples = append(c.samples, stats)
}

func (p *Provider) open(name string, owner owner) (*cgroup, error) {
	paths := make(map[string]string, len(p.subsystems))
	for controller, mount := range p.subsystems {
		paths[controller] = path.Join(mount, name)
	}
	manager, err := libcontainer.NewCgroupManager(name, paths)
	if err != nil {
		return nil, fmt.Errorf("open cgroup %s: %w", name, err)
	}
	pid := 0
	if owner.pod {
		// Any process of the pod shows the pod's network.
		if pids, err := manager.GetAllPids(); err == nil && len(pids) > 0 {
			pid = pids[0]
		}
	}
	return &cgroup{handler: libcontainer.NewHandler(manager, "/", pid, metrics), paths: paths, pid: pid}, nil
}
