package pki

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func testConfig(t testing.TB) Config {
	dir := t.TempDir()
	return Config{
		Dir: filepath.Join(dir, "pki"),
		Nodes: []Node{
			{Name: "t-control-plane", IPs: []netip.Addr{netip.MustParseAddr("172.30.0.10")}, ControlPlane: true, Dir: filepath.Join(dir, "cp")},
			{Name: "t-worker", IPs: []netip.Addr{netip.MustParseAddr("172.30.0.11")}, Dir: filepath.Join(dir, "worker")},
		},
		DNSDomain: "cluster.local", ServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		APIServerNames: []string{"192.0.2.7", "api.example"},
	}
}

func certificate(t *testing.T, dir, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, filepath.Base(path)))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestEveryCertificateServesItsPurpose(t *testing.T) {
	cfg := testConfig(t)
	admin, err := Ensure(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cp, worker := cfg.Nodes[0].Dir, cfg.Nodes[1].Dir
	pool := func(path string) *x509.CertPool {
		p := x509.NewCertPool()
		p.AddCert(certificate(t, cp, path))
		return p
	}
	ca, proxy := pool(machine.CACertFile), pool(machine.FrontProxyCACertFile)
	tests := []struct {
		dir, file string
		roots     *x509.CertPool
		usage     x509.ExtKeyUsage
		cn, org   string
		hosts     []string
	}{
		{cp, machine.APIServerCertFile, ca, x509.ExtKeyUsageServerAuth, "kube-apiserver", "", []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
			"localhost", "t-control-plane", "10.96.0.1", "172.30.0.10", "127.0.0.1", "192.0.2.7", "api.example"}},
		{cp, machine.APIServerKubeletCertFile, ca, x509.ExtKeyUsageClientAuth, "kube-apiserver-kubelet-client", "system:masters", nil},
		{cp, machine.FrontProxyClientCertFile, proxy, x509.ExtKeyUsageClientAuth, "front-proxy-client", "", nil},
		{cp, machine.KubeletClientCertFile, ca, x509.ExtKeyUsageClientAuth, "system:node:t-control-plane", "system:nodes", nil},
		{worker, machine.KubeletClientCertFile, ca, x509.ExtKeyUsageClientAuth, "system:node:t-worker", "system:nodes", nil},
		{worker, machine.KubeletServerCertFile, ca, x509.ExtKeyUsageServerAuth, "system:node:t-worker", "system:nodes", []string{"t-worker", "172.30.0.11"}},
		{worker, machine.DataplaneClientCertFile, ca, x509.ExtKeyUsageClientAuth, "system:kube-proxy", "", nil},
		{cfg.Dir, adminCert, ca, x509.ExtKeyUsageClientAuth, "kubernetes-admin", "system:masters", nil},
	}
	for _, tt := range tests {
		t.Run(filepath.Base(tt.file)+" of "+filepath.Base(tt.dir), func(t *testing.T) {
			cert := certificate(t, tt.dir, tt.file)
			for _, clock := range []time.Duration{0, time.Hour, -time.Hour} {
				if _, err := cert.Verify(x509.VerifyOptions{Roots: tt.roots, KeyUsages: []x509.ExtKeyUsage{tt.usage}, CurrentTime: time.Now().Add(clock)}); err != nil {
					t.Errorf("by a clock that is %v off: %v", clock, err)
				}
			}
			if cert.Subject.CommonName != tt.cn {
				t.Errorf("common name %q, want %q", cert.Subject.CommonName, tt.cn)
			}
			if tt.org != "" && (len(cert.Subject.Organization) != 1 || cert.Subject.Organization[0] != tt.org) {
				t.Errorf("organization %v, want %s", cert.Subject.Organization, tt.org)
			}
			for _, host := range tt.hosts {
				if err := cert.VerifyHostname(host); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if len(admin.CA) == 0 || len(admin.Cert) == 0 || len(admin.Key) == 0 {
		t.Error("admin's pair is not complete")
	}
	for _, secret := range []string{machine.CAKeyFile, machine.ServiceAccountKeyFile, machine.EncryptionConfigFile, machine.APIServerKeyFile} {
		info, err := os.Stat(filepath.Join(cp, base(secret)))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", secret, info.Mode())
		}
		if _, err := os.Stat(filepath.Join(worker, base(secret))); err == nil {
			t.Errorf("the worker knows %s", secret)
		}
	}
	data, _ := os.ReadFile(filepath.Join(cp, base(machine.EncryptionConfigFile)))
	m := regexp.MustCompile(`secret: (\S+)`).FindSubmatch(data)
	if m == nil {
		t.Fatalf("no key in %s", data)
	}
	if key, err := base64.StdEncoding.DecodeString(string(m[1])); err != nil || len(key) != 32 {
		t.Errorf("key of %d bytes, %v", len(key), err)
	}
}

func snapshot(t *testing.T, cfg Config) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, dir := range []string{cfg.Dir, cfg.Nodes[0].Dir, cfg.Nodes[1].Dir} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			files[filepath.Base(dir)+"/"+e.Name()] = string(data)
		}
	}
	return files
}

func TestEnsureMendsOnlyWhatIsNotAsWanted(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, cfg *Config)
		want   []string
	}{
		{"nothing changed", func(*testing.T, *Config) {}, nil},
		{"a file is missing", func(t *testing.T, cfg *Config) {
			if err := os.Remove(filepath.Join(cfg.Nodes[1].Dir, base(machine.KubeletClientKeyFile))); err != nil {
				t.Fatal(err)
			}
		}, []string{"worker/kubelet-client.crt", "worker/kubelet-client.key"}},
		{"a further name", func(_ *testing.T, cfg *Config) { cfg.APIServerNames = []string{"other.example"} },
			[]string{"cp/apiserver.crt", "cp/apiserver.key"}},
		{"another pair's key", func(t *testing.T, cfg *Config) {
			dir := cfg.Nodes[1].Dir
			if err := os.Rename(filepath.Join(dir, "kubelet-server.key"), filepath.Join(dir, "kubelet-client.key")); err != nil {
				t.Fatal(err)
			}
		}, []string{"worker/kubelet-client.crt", "worker/kubelet-client.key", "worker/kubelet-server.crt", "worker/kubelet-server.key"}},
		{"ten months later", func(_ *testing.T, cfg *Config) { cfg.Now = time.Now().Add(300 * 24 * time.Hour) }, []string{
			"cp/apiserver-kubelet-client.crt", "cp/apiserver-kubelet-client.key", "cp/apiserver.crt", "cp/apiserver.key",
			"cp/dataplane-client.crt", "cp/dataplane-client.key", "cp/front-proxy-client.crt", "cp/front-proxy-client.key",
			"cp/kubelet-client.crt", "cp/kubelet-client.key", "cp/kubelet-server.crt", "cp/kubelet-server.key",
			"pki/admin.crt", "pki/admin.key",
			"worker/dataplane-client.crt", "worker/dataplane-client.key",
			"worker/kubelet-client.crt", "worker/kubelet-client.key", "worker/kubelet-server.crt", "worker/kubelet-server.key"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(t)
			if _, err := Ensure(cfg); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, cfg)
			tt.change(t, &cfg)
			if _, err := Ensure(cfg); err != nil {
				t.Fatal(err)
			}
			after := snapshot(t, cfg)
			changed := map[string]bool{}
			for name, data := range after {
				if before[name] != data {
					changed[name] = true
				}
			}
			for _, name := range tt.want {
				if !changed[name] {
					t.Errorf("%s was not made anew", name)
				}
				delete(changed, name)
			}
			for name := range changed {
				t.Errorf("%s was made anew", name)
			}
		})
	}
}

func TestCertificatesAreDueAfterTwoThirdsOfTheirLives(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	cfg := testConfig(t)
	cfg.Now = now
	due := func() time.Time {
		t.Helper()
		if _, err := Ensure(cfg); err != nil {
			t.Fatal(err)
		}
		at, err := Due(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	at := due()
	if days := at.Sub(now).Hours() / 24; days < 242 || days > 244 {
		t.Errorf("due in %v days", days)
	}
	before := snapshot(t, cfg)
	cfg.Now = at.Add(-time.Minute)
	if due() != at || !maps.Equal(before, snapshot(t, cfg)) {
		t.Error("renewed too early")
	}
	cfg.Now = at
	if !due().After(at) || maps.Equal(before, snapshot(t, cfg)) {
		t.Error("not renewed in time")
	}
	// A certificate of somebody else's is not ours to renew.
	other := testConfig(t)
	if _, err := Ensure(other); err != nil {
		t.Fatal(err)
	}
	want := due()
	stranger, err := os.ReadFile(filepath.Join(other.Dir, adminCert))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Nodes[0].Dir, "etcd-client.crt"), stranger, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := due(); got != want {
		t.Errorf("due at %v, without the stranger at %v", got, want)
	}
	// Two years without anybody.
	cfg.Now = now.Add(2 * 365 * 24 * time.Hour)
	if at := due(); !at.After(cfg.Now.Add(240 * 24 * time.Hour)) {
		t.Errorf("due at %v", at)
	}
	// Near the authorities' end lives get shorter, and then there is none.
	cfg.Now = now.Add(caValidity - 24*time.Hour)
	if at := due(); at.Before(cfg.Now) || at.After(now.Add(caValidity)) {
		t.Errorf("due at %v", at)
	}
	cfg.Now = now.Add(caValidity + time.Hour)
	_, err = Ensure(cfg)
	if expired, ok := errors.AsType[*ExpiredError](err); !ok || expired.Mend() == "" {
		t.Errorf("after the end of the authorities: %v", err)
	}
}

func TestACorruptCAIsAnError(t *testing.T) {
	cfg := testConfig(t)
	if _, err := Ensure(cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, "ca.crt"), []byte("nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(cfg); err == nil {
		t.Error("a corrupt CA was replaced: every client of the cluster would be locked out")
	}
}

func BenchmarkEnsureThreeNodes(b *testing.B) {
	for b.Loop() {
		cfg := testConfig(b)
		cfg.Nodes = append(cfg.Nodes, Node{Name: "t-worker2", IPs: []netip.Addr{netip.MustParseAddr("172.30.0.12")}, Dir: filepath.Join(filepath.Dir(cfg.Dir), "w2")})
		if _, err := Ensure(cfg); err != nil {
			b.Fatal(err)
		}
	}
}

func TestMembersOfEtcdHaveACAOfTheirOwn(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: filepath.Join(dir, "cluster"), DNSDomain: "cluster.local"}
	for i, name := range []string{"cp", "cp2", "cp3", "worker"} {
		cfg.Nodes = append(cfg.Nodes, Node{Name: name, IPs: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, 0, byte(10 + i)})},
			ControlPlane: name != "worker", Dir: filepath.Join(dir, name)})
	}
	if _, err := Ensure(cfg); err != nil {
		t.Fatal(err)
	}
	read := func(path string) *x509.Certificate {
		data, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	member, own, cluster := read("cp2/etcd-peer.crt"), read("cluster/etcd-peer-ca.crt"), read("cluster/ca.crt")
	if err := member.CheckSignatureFrom(own); err != nil {
		t.Error(err)
	}
	// Else any kubelet could read every Secret.
	if read("cp2/kubelet-client.crt").CheckSignatureFrom(own) == nil || member.CheckSignatureFrom(cluster) == nil {
		t.Error("one CA signs for both")
	}
	if len(member.IPAddresses) == 0 || !member.IPAddresses[0].Equal(net.IPv4(172, 30, 0, 11)) || len(member.ExtKeyUsage) != 2 {
		t.Errorf("certificate for %v, usages %v", member.IPAddresses, member.ExtKeyUsage)
	}
	for _, path := range []string{"worker/etcd-peer.key", "cp/etcd-peer-ca.key"} {
		if _, err := os.Stat(filepath.Join(dir, path)); err == nil {
			t.Errorf("%s exists", path)
		}
	}
	cfg.Nodes = cfg.Nodes[:1]
	cfg.Nodes[0].Dir, cfg.Dir = filepath.Join(dir, "alone"), filepath.Join(dir, "one")
	if _, err := Ensure(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "alone/etcd-peer.crt")); err == nil {
		t.Error("the only member has a certificate for others")
	}
}
