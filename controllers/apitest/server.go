package apitest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// API is a running API server.
type API struct {
	// Config is an administrator's, without a rate limit.
	Config *rest.Config
	// Client is made from Config.
	Client *kubernetes.Clientset
	// PKIDir holds ca.crt, ca.key, sa.key, sa.pub.
	PKIDir string
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
	code, err := serve(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// serve runs tests with an API server.
func serve(tests func() int) (code int, err error) {
	process, err := apiservertest.Open("-service-cidr", ServiceSubnet)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, process.Close()) }()
	server = &API{Config: process.Config(), PKIDir: filepath.Join(process.Dir, "pki")}
	if server.Client, err = kubernetes.NewForConfig(server.Config); err != nil {
		return 0, err
	}
	return tests(), nil
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
