package apiservertest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Version is what the program reports; the same flags build every program of
// the release.
const (
	Version = "v1.37.2+skiff"
	ldflags = "-X k8s.io/component-base/version.gitVersion=" + Version +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37" +
		" -X k8s.io/client-go/pkg/version.gitVersion=" + Version
)

// startTimeout is long because a loaded machine with a cold page cache reads
// 180 MB first.
const startTimeout = 60 * time.Second

// Server is a running test/apiserver.
type Server struct {
	// Dir holds etcd, etcd.sock, pki, kubeconfig and audit.log.
	Dir        string
	Kubeconfig string

	t    testing.TB
	args []string
	cmd  *exec.Cmd
	// stdin keeps the program alive: it stops when the test's process is gone.
	stdin  io.Closer
	stderr *log
	// exited is closed after exit is set.
	exited chan struct{}
	exit   error
}

// Start starts a server with args and returns when /readyz passes.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	// Unix socket paths are short, so a short name in the shortest directory.
	dir, err := os.MkdirTemp("", "sk")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Dir: dir, t: t, args: args}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stop API server: %v\n%s", err, s.stderr)
		}
		os.RemoveAll(dir)
	})
	s.Restart()
	return s
}

// Restart starts a stopped or killed server on the same directory, with its
// first arguments.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatalf("start API server: %v\n%s", err, s.stderr)
	}
}

// Try starts a server that is expected to fail and returns its error output.
func Try(t testing.TB, args ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sk")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s := &Server{Dir: dir, t: t, args: args}
	if err := s.start(); err == nil {
		s.Stop()
		t.Fatalf("API server with %v started", args)
	}
	return s.stderr.String()
}

// Launch starts a stopped or killed server and does not wait for it.
func (s *Server) Launch() {
	s.t.Helper()
	if _, err := s.launch(); err != nil {
		s.t.Fatalf("start API server: %v", err)
	}
}

// launch returns a channel that gets the kubeconfig when the server is ready,
// or nothing when it ends before.
func (s *Server) launch() (ready <-chan string, err error) {
	program, err := program()
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(program, append([]string{"-dir", s.Dir, "-stop-on-stdin"}, s.args...)...)
	s.stderr = &log{}
	s.cmd.Stderr = s.stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	s.stdin = stdin
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	kubeconfig := make(chan string, 1)
	s.exited = make(chan struct{})
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		kubeconfig <- strings.TrimSpace(line)
		s.exit = s.cmd.Wait()
		close(s.exited)
	}()
	return kubeconfig, nil
}

func (s *Server) start() error {
	ready, err := s.launch()
	if err != nil {
		return err
	}
	select {
	case s.Kubeconfig = <-ready:
		if s.Kubeconfig == "" {
			<-s.exited
			return fmt.Errorf("ended before it was ready: %v", s.exit)
		}
		return nil
	case <-time.After(startTimeout):
		s.Kill()
		return errors.New("not ready in time")
	}
}

// Stop ends the server gracefully and returns how it went.
func (s *Server) Stop() error {
	if s.exited == nil {
		return nil
	}
	select {
	case <-s.exited:
		return nil
	default:
	}
	s.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		return s.exit
	case <-time.After(startTimeout):
		s.Kill()
		return errors.New("did not stop in time")
	}
}

// PID is the server's process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Signal sends sig to the server.
func (s *Server) Signal(sig syscall.Signal) { s.cmd.Process.Signal(sig) }

// Exited is closed when the server has ended.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// Kill ends the server without warning and waits for its end.
func (s *Server) Kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// Log is what the server has written to its standard error so far.
func (s *Server) Log() string { return s.stderr.String() }

// Config returns a client configuration for the cluster's admin, without
// client-side limits.
func (s *Server) Config() *rest.Config {
	s.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		s.t.Fatal(err)
	}
	config.QPS = -1
	return config
}

// CertificateConfig returns a client configuration with one of the
// certificates in pki, for example "kubelet-client".
func (s *Server) CertificateConfig(name string) *rest.Config {
	config := rest.AnonymousClientConfig(s.Config())
	config.QPS = -1
	config.CertFile = filepath.Join(s.Dir, "pki", name+".crt")
	config.KeyFile = filepath.Join(s.Dir, "pki", name+".key")
	return config
}

// BinaryEnv names a built test/apiserver with the release's version in it;
// without it one is built.
const BinaryEnv = "SKIFF_TEST_APISERVER"

// program builds test/apiserver, if it is not up to date, and returns its path.
var program = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		return path, nil
	}
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "..", "..", "..")
	output := filepath.Join(root, "_output", "test")
	if err := os.MkdirAll(output, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(output, "apiserver-release.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	// Not the name under which others build it without a version.
	path := filepath.Join(output, "apiserver-release")
	build := exec.Command("go", "build", "-ldflags", ldflags, "-o", path, "./test/apiserver")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test/apiserver: %w\n%s", err, out)
	}
	return path, nil
})

// log is a buffer that may be read while the server writes.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
