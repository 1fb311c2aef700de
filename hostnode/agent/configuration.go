package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	evictionapi "k8s.io/kubernetes/pkg/kubelet/eviction/api"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

const (
	kubeletPort = 10250
	healthzPort = 10248
	// defaultPods is upstream's maxPods.
	defaultPods = 110
)

// kubeletServer is upstream's configuration: its defaults for a kubelet with
// a config file, and what a machine needs otherwise.
func kubeletServer(cfg Config) (*options.KubeletServer, error) {
	s, err := options.NewKubeletServer()
	if err != nil {
		return nil, fmt.Errorf("make kubelet configuration: %w", err)
	}

	f := &s.KubeletFlags
	f.HostnameOverride = cfg.Node.NodeName
	f.NodeIP = machinev1alpha1.Join(cfg.Node.NodeIPs)
	f.RootDirectory = filepath.Clean(cfg.RootDir)
	f.CertDirectory = filepath.Join(f.RootDirectory, "pki")

	c := &s.KubeletConfiguration
	c.StaticPodPath = cfg.StaticPodDir
	c.Port = kubeletPort
	if slices.ContainsFunc(cfg.Node.NodeIPs, netip.Addr.Is6) {
		c.Address = "::" // both families
	}
	c.ReadOnlyPort = 0
	c.HealthzPort = healthzPort
	c.TLSCertFile = filepath.Join(cfg.PKIDir, "kubelet-server.crt")
	c.TLSPrivateKeyFile = filepath.Join(cfg.PKIDir, "kubelet-server.key")
	c.Authentication = kubeletconfig.KubeletAuthentication{
		X509:    kubeletconfig.KubeletX509Authentication{ClientCAFile: filepath.Join(cfg.PKIDir, "ca.crt")},
		Webhook: kubeletconfig.KubeletWebhookAuthentication{Enabled: true, CacheTTL: c.Authentication.Webhook.CacheTTL},
	}
	c.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	c.ContainerRuntimeEndpoint = cfg.RuntimeEndpoint
	c.RegisterNode = false
	c.ProviderID = cfg.Node.ProviderID

	c.ClusterDomain = cfg.Node.DNSDomain
	if cfg.Node.ClusterDNS.IsValid() {
		c.ClusterDNS = []string{cfg.Node.ClusterDNS.String()}
	}
	c.MaxPods = defaultPods
	if cfg.Node.Pods > 0 {
		c.MaxPods = int32(cfg.Node.Pods)
	}
	c.SeccompDefault = cfg.Node.SeccompDefault
	c.FeatureGates = cfg.Node.FeatureGates

	// Who may read the node's logs (nodes/log) may do so by name as well.
	c.EnableSystemLogQuery = true

	// A machine's /usr is read-only.
	c.VolumePluginDir = filepath.Join(f.RootDirectory, "volume-plugins")

	c.CgroupRoot = cfg.CgroupRoot
	// Without CAP_SYS_RESOURCE nobody's score goes down: keep what init gave.
	if c.OOMScoreAdj, err = oomScore(); err != nil {
		return nil, err
	}
	c.FailCgroupV1 = false
	c.FailSwapOn = false
	c.MakeIPTablesUtilChains = false
	c.SerializeImagePulls = false
	return s, limitEviction(cfg, c)
}

// limitEviction takes upstream's limits off file systems that are the host's:
// they are the developer's and often fairly full, so, as in kind, neither evicts
// a full one Pods nor are images collected. A node with declared storage, or a
// file system of its own by extraMounts, keeps them. Processes have a limit
// here, which upstream's do not.
func limitEviction(cfg Config, c *kubeletconfig.KubeletConfiguration) error {
	hard := maps.Clone(eviction.DefaultEvictionHard)
	for _, disk := range []struct{ dir, signals string }{{cfg.RootDir, "nodefs"}, {cfg.ImageDir, "imagefs"}} {
		own, err := apart(disk.dir, cfg.SharedDir)
		if err != nil {
			return fmt.Errorf("find the file system of %s: %w", disk.dir, err)
		}
		if own || cfg.Node.EphemeralStorageBytes > 0 {
			continue
		}
		hard[disk.signals+".available"], hard[disk.signals+".inodesFree"] = "0%", "0%"
		if disk.dir == cfg.ImageDir {
			c.ImageGCHighThresholdPercent = 100
		}
	}
	if cfg.Node.PodTasks > 0 {
		hard[string(evictionapi.SignalPIDAvailable)] = minTasksFree
	}
	c.EvictionHard = hard
	return nil
}

// apart says whether two directories are on different file systems. One that is
// not there yet is where all others are.
func apart(a, b string) (bool, error) {
	var dev [2]uint64
	for i, dir := range []string{a, b} {
		var st unix.Stat_t
		err := unix.Stat(dir, &st)
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		dev[i] = st.Dev
	}
	return dev[0] != dev[1], nil
}

func oomScore() (int32, error) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("read the kubelet's own OOM score: %w", err)
	}
	score, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read the kubelet's own OOM score: %w", err)
	}
	return int32(score), nil
}

// complete fills in the defaults of a Config.
func (cfg Config) complete() Config {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&cfg.PKIDir, machinev1alpha1.PKIDir)
	set(&cfg.RootDir, machinev1alpha1.KubeletDir)
	set(&cfg.ImageDir, machinev1alpha1.ContainerdRoot)
	set(&cfg.SharedDir, machinev1alpha1.VolumesDir)
	set(&cfg.StaticPodDir, machinev1alpha1.StaticPodDir)
	set(&cfg.LogDir, machinev1alpha1.LogDir)
	set(&cfg.RuntimeEndpoint, "unix://"+machinev1alpha1.ContainerdSocket)
	set(&cfg.CgroupRoot, "/")
	if cfg.Damaged == nil {
		cfg.Damaged = func(*Damage) {}
	}
	return cfg
}

// validate refuses what would fail later with a worse message.
func (cfg Config) validate() error {
	for _, field := range []struct{ name, value string }{
		{"nodeName", cfg.Node.NodeName},
		{"nodeIPs", machinev1alpha1.Join(cfg.Node.NodeIPs)},
		{"apiServer", cfg.Node.APIServer},
	} {
		if field.value == "" {
			return fmt.Errorf("node configuration: %s is empty", field.name)
		}
	}
	if cfg.Runtime == nil || cfg.Images == nil {
		return fmt.Errorf("node %s: no container runtime", cfg.Node.NodeName)
	}
	return nil
}
