package stats

import (
	"context"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/google/cadvisor/lib/container"
	"github.com/google/cadvisor/lib/container/common"
	"github.com/google/cadvisor/lib/container/libcontainer"
	"github.com/google/cadvisor/lib/machine"
	cadvisor "github.com/google/cadvisor/lib/model"
	internalapi "k8s.io/cri-api/pkg/apis"
	"k8s.io/klog/v2"
	kubeletcadvisor "k8s.io/kubernetes/pkg/kubelet/cadvisor"
)

var _ kubeletcadvisor.Interface = (*Provider)(nil)

// Config of a Provider.
type Config struct {
	// Name is unique among the machines of the host, "<cluster>/<node>".
	Name string
	// CPU (whole cores) and MemoryBytes are the declared capacity; zero means
	// the host's.
	CPU         int
	MemoryBytes int64
	// RootDir is the kubelet's directory: the node's ephemeral storage.
	RootDir string
	// ImageDir is containerd's directory: the image file system.
	ImageDir string
	// Runtime tells which cgroup belongs to which container.
	Runtime internalapi.RuntimeService
}

// Provider answers the kubelet's questions about the machine.
type Provider struct {
	cfg        Config
	machine    *cadvisor.MachineInfo
	version    *cadvisor.VersionInfo
	subsystems map[string]string

	// mu guards the fields below.
	mu      sync.Mutex
	cgroups map[string]*cgroup
}

// sampleAge is how old a cgroup's last sample may be before a caller who
// asks for no age of its own gets a new one: shorter than the eviction
// manager's 10 s, so that it never decides on what it saw before.
const sampleAge = 2 * time.Second

// metrics are what upstream's kubelet asks its cAdvisor for, less disk usage:
// the CRI tells that.
var metrics = container.MetricSet{
	container.CpuUsageMetrics:     {},
	container.MemoryUsageMetrics:  {},
	container.DiskIOMetrics:       {},
	container.NetworkUsageMetrics: {},
	container.ProcessMetrics:      {},
	container.OOMMetrics:          {},
	container.PressureMetrics:     {},
}

// New reads the machine's capacity once.
func New(cfg Config) (*Provider, error) {
	info, err := machineInfo(cfg)
	if err != nil {
		return nil, err
	}
	subsystems, err := libcontainer.GetCgroupSubsystems(metrics)
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	return &Provider{
		cfg:     cfg,
		machine: info,
		version: &cadvisor.VersionInfo{
			KernelVersion:      machine.KernelVersion(),
			ContainerOsVersion: machine.ContainerOsVersion(),
		},
		subsystems: subsystems,
		cgroups:    map[string]*cgroup{},
	}, nil
}

// Start does nothing: samples are taken when somebody asks.
func (p *Provider) Start() error { return nil }

// MachineInfo is the declared capacity.
func (p *Provider) MachineInfo(klog.Logger) (*cadvisor.MachineInfo, error) {
	return p.machine.Clone(), nil
}

// GetMachineInfo and GetVersionInfo serve upstream's reader of cgroup files.
func (p *Provider) GetMachineInfo() (*cadvisor.MachineInfo, error) { return p.machine, nil }

// GetVersionInfo is VersionInfo.
func (p *Provider) GetVersionInfo() (*cadvisor.VersionInfo, error) { return p.version, nil }

// VersionInfo names the kernel and the distribution.
func (p *Provider) VersionInfo() (*cadvisor.VersionInfo, error) { return p.version, nil }

// ImagesFsInfo is the file system with containerd's directory.
func (p *Provider) ImagesFsInfo(context.Context) (cadvisor.FsInfo, error) {
	return fsInfo(p.cfg.ImageDir)
}

// ContainerFsInfo is the file system with the containers' writable layers.
func (p *Provider) ContainerFsInfo(context.Context) (cadvisor.FsInfo, error) {
	return fsInfo(p.cfg.ImageDir)
}

// RootFsInfo is the file system with the kubelet's directory.
func (p *Provider) RootFsInfo() (cadvisor.FsInfo, error) { return fsInfo(p.cfg.RootDir) }

// GetDirFsInfo is the file system with dir.
func (p *Provider) GetDirFsInfo(dir string) (cadvisor.FsInfo, error) { return fsInfo(dir) }

// ContainerInfoV2 samples the cgroup called name, and those below it if the
// options ask for that.
func (p *Provider) ContainerInfoV2(name string, options cadvisor.RequestOptions) (map[string]cadvisor.ContainerInfo, error) {
	infos, err := p.containers(name, options)
	if err != nil {
		return nil, err
	}
	out := make(map[string]cadvisor.ContainerInfo, len(infos))
	for name, info := range infos {
		out[name] = *info
	}
	return out, nil
}

// GetRequestedContainersInfo is ContainerInfoV2 for /metrics/cadvisor.
func (p *Provider) GetRequestedContainersInfo(name string, options cadvisor.RequestOptions) (map[string]*cadvisor.ContainerInfo, error) {
	return p.containers(name, options)
}

func (p *Provider) containers(name string, options cadvisor.RequestOptions) (map[string]*cadvisor.ContainerInfo, error) {
	if options.IdType != "" && options.IdType != cadvisor.TypeName {
		return nil, fmt.Errorf("read cgroup %s: unknown kind of name %q", name, options.IdType)
	}
	name = path.Clean("/" + name)
	if !p.exists(name) {
		return nil, fmt.Errorf("read cgroup %s: unknown container", name)
	}
	age := sampleAge
	if options.MaxAge != nil {
		age = *options.MaxAge
	}

	names := []string{name}
	var owners owners
	if options.Recursive {
		below := map[string]struct{}{}
		if err := common.ListDirectories(path.Join(p.listRoot(), name), name, true, below); err != nil {
			return nil, fmt.Errorf("list cgroups below %s: %w", name, err)
		}
		for child := range below {
			names = append(names, child)
		}
	}
	if options.Recursive || strings.Contains(name, "/pod") {
		var err error
		if owners, err = listOwners(p.cfg.Runtime); err != nil {
			return nil, err
		}
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]*cadvisor.ContainerInfo, len(names))
	for _, name := range names {
		info, err := p.sample(name, age, owners)
		if err != nil {
			// A cgroup may go away between the listing and the reading.
			if name == "/" {
				return nil, err
			}
			continue
		}
		out[name] = info
	}
	owners.addSandboxes(out)
	if options.Recursive && name == "/" {
		p.forget(out)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("read cgroup %s: unknown container", name)
	}
	return out, nil
}

// forget drops the samples of cgroups that are gone.
func (p *Provider) forget(present map[string]*cadvisor.ContainerInfo) {
	for name := range p.cgroups {
		if _, ok := present[name]; !ok {
			delete(p.cgroups, name)
		}
	}
}
