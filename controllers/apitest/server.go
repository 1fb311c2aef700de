package apitest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// BinaryEnv names a built test/apiserver; without it one is built.
const BinaryEnv = "SKIFF_TEST_APISERVER"

// API is a running API server.
type API struct {
	// Config is an administrator's, without a rate limit.
	Config *rest.Config
	// Client is made from Config.
	Client *kubernetes.Clientset
	// PKIDir holds ca.crt, ca.key, sa.key, sa.pub.
	PKIDir string

	dir     string
	process *exec.Cmd
	stdin   io.Closer
}

// PodSubnet and ServiceSubnet are the ranges of every test cluster.
const (
	PodSubnet     = "10.244.0.0/16"
	ServiceSubnet = "10.96.0.0/16"
)

var server *API

// Server is the test program's API server.
func Server(t testing.TB) *API {
	t.Helper()
	if server == nil {
		t.Fatal("TestMain does not call apitest.Main")
	}
	return server
}

// Main runs the tests of a package against one API server and returns the
// exit code. A change to a cached object is fatal in them.
func Main(m *testing.M) int {
	if os.Getenv(detector) == "" {
		return again()
	}
	api, err := start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server = api
	code := m.Run()
	if err := api.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// detector is client-go's switch that compares cached objects with copies.
const detector = "KUBE_CACHE_MUTATION_DETECTOR"

// again runs the test program with the detector on: client-go reads its
// switch before main.
func again() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), detector+"=true")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func start() (_ *API, err error) {
	binary, err := build()
	if err != nil {
		return nil, err
	}
	// etcd's socket is in it: a long name of a test would be too long for one.
	dir, err := os.MkdirTemp("", "skiff-api")
	if err != nil {
		return nil, err
	}
	api := &API{dir: dir, PKIDir: filepath.Join(dir, "pki")}
	defer func() {
		if err != nil {
			err = errors.Join(err, api.stop())
		}
	}()
	api.process = exec.Command(binary, "-dir", dir, "-service-cidr", ServiceSubnet, "-stop-on-stdin")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	api.process.Stderr = log
	if api.stdin, err = api.process.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := api.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := api.process.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("API server: %w\n%s", err, said)
	}
	if api.Config, err = clientcmd.BuildConfigFromFlags("", strings.TrimSpace(line)); err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", line, err)
	}
	api.Config.QPS = -1
	api.Client, err = kubernetes.NewForConfig(api.Config)
	return api, err
}

// stop ends the API server and removes its files.
func (a *API) stop() error {
	var err error
	if a.process != nil && a.process.Process != nil {
		a.stdin.Close()
		err = a.process.Wait()
	}
	return errors.Join(err, os.RemoveAll(a.dir))
}

// build makes test/apiserver once for all test programs: an up-to-date output
// is not linked again.
func build() (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		return path, nil
	}
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "../..")
	out := filepath.Join(root, "_output", "test", "apiserver")
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(out+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	cmd := exec.Command("go", "build", "-o", out, "./test/apiserver")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test/apiserver: %w\n%s", err, text)
	}
	return out, nil
}
