package agent

import (
	"flag"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	kubeletscheme "k8s.io/kubernetes/pkg/kubelet/apis/config/scheme"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestConfigurationBesideUpstreams shows what a machine's kubelet does
// otherwise than one without any configuration.
func TestConfigurationBesideUpstreams(t *testing.T) {
	cfg := testConfig(t)
	s, err := kubeletServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := options.ValidateKubeletServer(s); err != nil {
		t.Errorf("upstream refuses it: %v", err)
	}
	s.OOMScoreAdj = 0 // is this process's
	got := differences(t, &s.KubeletConfiguration)
	got = strings.ReplaceAll(got, cfg.RootDir, "/var/lib/kubelet")

	const golden = "testdata/configuration.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("configuration changed; run with -update and read the diff:\n%s", diff.Diff(string(want), got))
	}
}

// differences are the lines of the configuration, as /configz shows it, that
// upstream's defaults do not have.
func differences(t *testing.T, cfg *kubeletconfig.KubeletConfiguration) string {
	t.Helper()
	defaults, err := options.NewKubeletConfiguration()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for line := range strings.SplitSeq(versioned(t, defaults), "\n") {
		known[line] = true
	}
	var out strings.Builder
	for line := range strings.SplitSeq(versioned(t, cfg), "\n") {
		if !known[line] {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

func versioned(t *testing.T, cfg *kubeletconfig.KubeletConfiguration) string {
	t.Helper()
	scheme, _, err := kubeletscheme.NewSchemeAndCodecs()
	if err != nil {
		t.Fatal(err)
	}
	v := &kubeletv1beta1.KubeletConfiguration{}
	if err := scheme.Convert(cfg, v, nil); err != nil {
		t.Fatal(err)
	}
	out, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestANodesOwnDiskKeepsUpstreamsLimits: the host's has none.
func TestANodesOwnDiskKeepsUpstreamsLimits(t *testing.T) {
	cfg := testConfig(t)
	cfg.SharedDir = t.TempDir()
	for _, tt := range []struct {
		name, root, image, nodefs, imagefs string
		collect                            int32
		declared                           int64
	}{
		{"the host's", cfg.SharedDir, cfg.SharedDir, "0%", "0%", 100, 0},
		{"the kubelet's own", "/proc", cfg.SharedDir, "10%", "0%", 100, 0},
		{"containerd's own", cfg.SharedDir, "/proc", "0%", "15%", 85, 0},
		{"both's own", "/proc", "/proc", "10%", "15%", 85, 0},
		{"not there yet", "/no/such/dir", "/no/such/dir", "0%", "0%", 100, 0},
		{"a part of the host's", cfg.SharedDir, cfg.SharedDir, "10%", "15%", 85, 1 << 30},
	} {
		cfg.RootDir, cfg.ImageDir, cfg.Node.EphemeralStorageBytes = tt.root, tt.image, tt.declared
		s, err := kubeletServer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.EvictionHard; got["nodefs.available"] != tt.nodefs || got["imagefs.available"] != tt.imagefs || got["memory.available"] != "100Mi" ||
			s.ImageGCHighThresholdPercent != tt.collect {
			t.Errorf("%s: %v, images are collected at %d%%", tt.name, got, s.ImageGCHighThresholdPercent)
		}
		if err := options.ValidateKubeletServer(s); err != nil {
			t.Errorf("%s: upstream refuses it: %v", tt.name, err)
		}
	}
}

func TestAConfigNeedsANodeAndARuntime(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"nodeName":  func(c *Config) { c.Node.NodeName = "" },
		"nodeIPs":   func(c *Config) { c.Node.NodeIPs = nil },
		"apiServer": func(c *Config) { c.Node.APIServer = "" },
		"runtime":   func(c *Config) { c.Runtime = nil },
	} {
		cfg := testConfig(t)
		change(&cfg)
		if err := cfg.validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	cfg := testConfig(t)
	if err := cfg.validate(); err != nil {
		t.Error(err)
	}
}

func TestADualStackKubeletListensOnBothFamilies(t *testing.T) {
	cfg := testConfig(t)
	cfg.Node.NodeIPs = []netip.Addr{netip.MustParseAddr("fd00::a"), netip.MustParseAddr("172.30.0.10")}
	s, err := kubeletServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := options.ValidateKubeletServer(s); err != nil {
		t.Errorf("upstream refuses it: %v", err)
	}
	if s.NodeIP != "fd00::a,172.30.0.10" || s.Address != "::" {
		t.Errorf("--node-ip=%s --address=%s", s.NodeIP, s.Address)
	}
	node := desiredNode(cfg.Node)
	want := []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "fd00::a"}, {Type: corev1.NodeInternalIP, Address: "172.30.0.10"},
		{Type: corev1.NodeHostName, Address: "n1"},
	}
	if !slices.Equal(node.Status.Addresses, want) {
		t.Errorf("addresses %v, want %v", node.Status.Addresses, want)
	}
}
