package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// Node is a machine that gets certificates.
type Node struct {
	Name string
	IPs  []netip.Addr
	// ControlPlane says that it also runs an API server.
	ControlPlane bool
	// Dir is the host directory that the machine sees as /etc/skiff/pki.
	Dir string
}

// Config of a cluster's certificates.
type Config struct {
	// Dir is the cluster's own directory for CAs and the admin's pair.
	Dir   string
	Nodes []Node
	// DNSDomain is the cluster domain.
	DNSDomain string
	// ServiceIPs are the first addresses of the service ranges, one of them
	// the ClusterIP of the Service default/kubernetes.
	ServiceIPs []netip.Addr
	// APIServerNames are further names or addresses by which clients reach
	// the API server from outside (networking.apiServerAddress).
	APIServerNames []string
	// Now is the time; zero means the clock's.
	Now time.Time
}

// Admin is what a kubeconfig for the cluster's owner holds, as PEM.
type Admin struct{ CA, Cert, Key []byte }

// ExpiredError says that an authority has come to its end, and with it the
// cluster: nobody who trusts the old one would trust another.
type ExpiredError struct {
	Path  string
	Since time.Time
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("the CA in %s expired on %s", e.Path, e.Since.Format(time.DateOnly))
}

// Mend is what the user can do about it.
func (e *ExpiredError) Mend() string {
	return "authorities live ten years: create a new cluster and bring its objects over; if the host's clock is wrong, set it"
}

// Files of Dir that no machine has.
const (
	frontProxyCAKey = "front-proxy-ca.key"
	etcdPeerCAKey   = "etcd-peer-ca.key"
	adminCert       = "admin.crt"
	adminKey        = "admin.key"
)

// replicated says that there are several control planes.
func (cfg Config) replicated() bool {
	n := 0
	for _, node := range cfg.Nodes {
		if node.ControlPlane {
			n++
		}
	}
	return n > 1
}

func base(path string) string { return filepath.Base(path) }

// Ensure makes what is missing, expired soon or not as configured, and
// returns the admin's pair. The CAs are made once: with a new CA all else is
// made anew.
func Ensure(cfg Config) (*Admin, error) {
	if cfg.Now.IsZero() {
		cfg.Now = time.Now()
	}
	var (
		ca, proxy  *authority
		etcd       *authority // nil when etcd has one member
		sa, secret []byte
		saPub      []byte
	)
	err := together(
		func() (err error) {
			ca, err = cfg.ensureAuthority("kubernetes", base(machine.CACertFile), base(machine.CAKeyFile))
			return err
		},
		func() (err error) {
			proxy, err = cfg.ensureAuthority("front-proxy-ca", base(machine.FrontProxyCACertFile), frontProxyCAKey)
			return err
		},
		func() (err error) {
			if cfg.replicated() {
				etcd, err = cfg.ensureAuthority("etcd-peer-ca", base(machine.EtcdPeerCAFile), etcdPeerCAKey)
			}
			return err
		},
		func() (err error) { sa, saPub, err = cfg.ensureServiceAccountKey(); return err },
		func() (err error) { secret, err = cfg.ensureEncryptionConfig(); return err },
	)
	if err != nil {
		return nil, err
	}

	var admin Admin
	jobs := []func() error{func() error {
		p, err := ensurePair(ca, cfg.Dir, adminCert, adminKey, spec{
			commonName: "kubernetes-admin", organization: []string{"system:masters"}, usages: clientUsage,
		}, cfg.Now)
		admin = Admin{CA: ca.pem, Cert: p.cert, Key: p.key}
		return err
	}}
	for _, node := range cfg.Nodes {
		put := func(name string, data []byte) func() error {
			return func() error { return write(filepath.Join(node.Dir, name), data, modeOf(name)) }
		}
		pair := func(a *authority, cert, key string, s spec) func() error {
			return func() error {
				_, err := ensurePair(a, node.Dir, base(cert), base(key), s, cfg.Now)
				return err
			}
		}
		jobs = append(jobs,
			put(base(machine.CACertFile), ca.pem),
			pair(ca, machine.KubeletClientCertFile, machine.KubeletClientKeyFile, spec{
				commonName: "system:node:" + node.Name, organization: []string{"system:nodes"}, usages: clientUsage}),
			pair(ca, machine.KubeletServerCertFile, machine.KubeletServerKeyFile, spec{
				commonName: "system:node:" + node.Name, organization: []string{"system:nodes"}, usages: serverUsage,
				names: []string{node.Name}, addresses: node.IPs}),
			pair(ca, machine.DataplaneClientCertFile, machine.DataplaneClientKeyFile, spec{
				commonName: "system:kube-proxy", usages: clientUsage}),
		)
		if !node.ControlPlane {
			continue
		}
		caKey, err := encodeKey(ca.key)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs,
			put(base(machine.CAKeyFile), caKey),
			put(base(machine.FrontProxyCACertFile), proxy.pem),
			put(base(machine.ServiceAccountKeyFile), sa),
			put(base(machine.ServiceAccountPubFile), saPub),
			put(base(machine.EncryptionConfigFile), secret),
			pair(ca, machine.APIServerCertFile, machine.APIServerKeyFile, cfg.apiServer(node)),
			pair(ca, machine.APIServerKubeletCertFile, machine.APIServerKubeletKeyFile, spec{
				commonName: "kube-apiserver-kubelet-client", organization: []string{"system:masters"}, usages: clientUsage}),
			pair(proxy, machine.FrontProxyClientCertFile, machine.FrontProxyClientKeyFile, spec{
				commonName: "front-proxy-client", usages: clientUsage}),
		)
		if etcd != nil {
			jobs = append(jobs,
				put(base(machine.EtcdPeerCAFile), etcd.pem),
				pair(etcd, machine.EtcdPeerCertFile, machine.EtcdPeerKeyFile, spec{
					commonName: node.Name, usages: slices.Concat(serverUsage, clientUsage), names: []string{node.Name, "localhost"},
					addresses: slices.Concat(node.IPs, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()})}),
			)
		}
	}
	if err := together(jobs...); err != nil {
		return nil, err
	}
	return &admin, nil
}

var (
	clientUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	serverUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
)

// apiServer names every way in which a client may call the API server.
func (cfg Config) apiServer(node Node) spec {
	s := spec{
		commonName: "kube-apiserver", usages: serverUsage,
		names: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc." + cfg.DNSDomain, "localhost", node.Name},
		addresses: slices.Concat(cfg.ServiceIPs, node.IPs, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}),
	}
	for _, name := range cfg.APIServerNames {
		ip, err := netip.ParseAddr(name)
		ip = ip.Unmap()
		switch {
		case err != nil && name != "":
			s.names = append(s.names, name)
		case err == nil && !ip.IsUnspecified() && !slices.Contains(s.addresses, ip):
			s.addresses = append(s.addresses, ip)
		}
	}
	return s
}

func (cfg Config) ensureAuthority(name, cert, key string) (*authority, error) {
	p, err := readPair(cfg.Dir, cert, key)
	if err == nil {
		a, err := parseAuthority(p)
		if err != nil {
			return nil, fmt.Errorf("read CA %s: %w", filepath.Join(cfg.Dir, cert), err)
		}
		if cfg.Now.After(a.cert.NotAfter) {
			return nil, &ExpiredError{Path: filepath.Join(cfg.Dir, cert), Since: a.cert.NotAfter}
		}
		return a, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read CA %s: %w", name, err)
	}
	a, p, err := newAuthority(name, cfg.Now)
	if err != nil {
		return nil, err
	}
	return a, writePair(cfg.Dir, cert, key, p)
}

// ensureServiceAccountKey returns the pair that signs and checks tokens.
func (cfg Config) ensureServiceAccountKey() (private, public []byte, err error) {
	path := filepath.Join(cfg.Dir, base(machine.ServiceAccountKeyFile))
	private, err = os.ReadFile(path)
	var key *ecdsa.PrivateKey
	switch {
	case err == nil:
		if key, err = parseKey(private); err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", path, err)
		}
	case errors.Is(err, os.ErrNotExist):
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, nil, fmt.Errorf("make service-account key: %w", err)
		}
		if private, err = encodeKey(key); err != nil {
			return nil, nil, err
		}
		if err := write(path, private, 0o600); err != nil {
			return nil, nil, fmt.Errorf("write %s: %w", path, err)
		}
	default:
		return nil, nil, err
	}
	public, err = encodePublicKey(key.Public())
	return private, public, err
}

// ensureEncryptionConfig returns the API server's EncryptionConfiguration:
// Secrets are sealed with a key of this cluster; identity after it reads what
// an etcd from elsewhere holds in the clear.
func (cfg Config) ensureEncryptionConfig() ([]byte, error) {
	path := filepath.Join(cfg.Dir, base(machine.EncryptionConfigFile))
	data, err := os.ReadFile(path)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return data, err
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make encryption key: %w", err)
	}
	data = fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources:
  - secrets
  providers:
  - secretbox:
      keys:
      - name: key1
        secret: %s
  - identity: {}
`, base64.StdEncoding.EncodeToString(key))
	if err := write(path, data, 0o600); err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return data, nil
}

// ensurePair returns the pair on disk, made anew where it is not as wanted.
func ensurePair(a *authority, dir, cert, key string, s spec, now time.Time) (pair, error) {
	p, err := readPair(dir, cert, key)
	if err == nil && a.valid(p, s, now) {
		return p, nil
	}
	if p, err = a.issue(s, now); err != nil {
		return pair{}, err
	}
	return p, writePair(dir, cert, key, p)
}

func readPair(dir, cert, key string) (p pair, err error) {
	if p.cert, err = os.ReadFile(filepath.Join(dir, cert)); err != nil {
		return pair{}, err
	}
	p.key, err = os.ReadFile(filepath.Join(dir, key))
	return p, err
}

// writePair writes the key first: a crash in between leaves a certificate
// that does not fit its key, which Ensure mends.
func writePair(dir, cert, key string, p pair) error {
	if err := write(filepath.Join(dir, key), p.key, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	if err := write(filepath.Join(dir, cert), p.cert, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", cert, err)
	}
	return nil
}

func modeOf(name string) os.FileMode {
	switch filepath.Ext(name) {
	case ".crt", ".pub":
		return 0o644
	}
	return 0o600
}

// together runs the jobs at once and joins their errors.
func together(jobs ...func() error) error {
	errs := make([]error, len(jobs))
	var wg sync.WaitGroup
	for i, job := range jobs {
		wg.Go(func() { errs[i] = job() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
