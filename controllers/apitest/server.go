package apitest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// API is a running API server.
type API struct {
	// Config is an administrator's, without a rate limit.
	Config *rest.Config
	// Client is made from Config.
	Client *kubernetes.Clientset
	// PKIDir holds ca.crt, ca.key, sa.key, sa.pub.
	PKIDir string

	dir       string
	processes []*exec.Cmd
}

// PodSubnet and ServiceSubnet are the ranges of every test cluster.
const (
	PodSubnet     = "10.244.0.0/16"
	ServiceSubnet = "10.96.0.0/16"
)

var server *API

// Server is the test program's API server. The test is skipped in short mode.
func Server(t testing.TB) *API {
	t.Helper()
	if server == nil {
		t.Fatal("TestMain does not call apitest.Main")
	}
	return server
}

// Main runs the tests of a package against one API server and returns the
// exit code. It must be called before anything makes an informer: a change to
// a cached object is fatal in tests.
func Main(m *testing.M) int {
	api, err := Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server = api
	code := m.Run()
	if err := api.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Start builds and starts an API server. The caller stops it.
func Start() (_ *API, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	bin, err := build(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "skiff-apitest-")
	if err != nil {
		return nil, err
	}
	api := &API{dir: dir, PKIDir: filepath.Join(dir, "pki")}
	defer func() {
		if err != nil {
			err = errors.Join(err, api.Stop())
		}
	}()
	pki, err := writePKI(api.PKIDir)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	etcdURL := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	peerURL := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	if err := api.start(filepath.Join(bin, "etcd"),
		"--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL,
		"--listen-peer-urls="+peerURL, "--initial-advertise-peer-urls="+peerURL, "--initial-cluster=default="+peerURL,
		"--heartbeat-interval=10", "--election-timeout=50"); err != nil {
		return nil, err
	}
	if err := api.start(filepath.Join(bin, "kube-apiserver"),
		"--etcd-servers="+etcdURL,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[2]),
		"--tls-cert-file="+filepath.Join(api.PKIDir, "apiserver.crt"), "--tls-private-key-file="+filepath.Join(api.PKIDir, "apiserver.key"),
		"--client-ca-file="+filepath.Join(api.PKIDir, "ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+filepath.Join(api.PKIDir, "sa.pub"),
		"--service-account-signing-key-file="+filepath.Join(api.PKIDir, "sa.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged", "--service-cluster-ip-range="+ServiceSubnet,
		"--endpoint-reconciler-type=none"); err != nil {
		return nil, err
	}
	api.Config = &rest.Config{
		Host: fmt.Sprintf("https://127.0.0.1:%d", ports[2]),
		QPS:  -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: pki.caCert, CertData: pki.adminCert, KeyData: pki.adminKey,
		},
	}
	if api.Client, err = kubernetes.NewForConfig(api.Config); err != nil {
		return nil, err
	}
	return api, api.waitReady(ctx)
}

// Stop kills the API server and etcd and removes their files.
func (a *API) Stop() error {
	for i := len(a.processes) - 1; i >= 0; i-- {
		p := a.processes[i]
		_ = p.Process.Kill()
		_ = p.Wait() // it was killed
	}
	a.processes = nil
	return os.RemoveAll(a.dir)
}

// Log is what the API server has written so far.
func (a *API) Log() string {
	log, err := os.ReadFile(filepath.Join(a.dir, "kube-apiserver.log"))
	if err != nil {
		return err.Error()
	}
	return string(log)
}

func (a *API) start(program string, args ...string) error {
	log, err := os.Create(filepath.Join(a.dir, filepath.Base(program)+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	a.processes = append(a.processes, cmd)
	return nil
}

func (a *API) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		_, err := a.Client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the API server: %w\n%s", err, a.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// build makes the two programs, or leaves them when they are up to date.
func build(ctx context.Context) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	bin := filepath.Join(strings.TrimSpace(string(root)), "_output", "controllers")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	// Test programs of several packages run at once.
	lock, err := os.OpenFile(filepath.Join(bin, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	for program, pkg := range map[string]string{
		"kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
		"etcd":           "go.etcd.io/etcd/server/v3",
	} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(bin, program), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out.String())
		}
	}
	return bin, nil
}

// freePorts finds n ports on loopback that nobody listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
