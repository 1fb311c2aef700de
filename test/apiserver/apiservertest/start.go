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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// startTimeout is long because a loaded machine with a cold page cache reads
// 180 MB first.
const startTimeout = 60 * time.Second

// Server is a running test/apiserver.
type Server struct {
	// Dir holds etcd, etcd.sock, pki, kubeconfig and audit.log.
	Dir string

	// program is the command's path; empty is test/apiserver, built if it
	// has to be.
	program string
	args    []string
	config  *rest.Config
	cmd     *exec.Cmd
	// stdin keeps the program alive: it stops when the test's process is gone.
	stdin  io.Closer
	stderr *log
	// exited is closed after exit is set.
	exited chan struct{}
	exit   error
}

// Open starts a server with args and returns when /readyz passes. The caller
// closes it.
func Open(args ...string) (*Server, error) {
	return OpenProgram("", args...)
}

// OpenProgram is Open for another command around test/apiserver/compose.
func OpenProgram(path string, args ...string) (*Server, error) {
	s, err := prepare(args)
	if err != nil {
		return nil, err
	}
	s.program = path
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close stops the server and removes its files.
func (s *Server) Close() error {
	err := s.Stop()
	if err != nil {
		err = fmt.Errorf("stop API server: %w\n%s", err, s.stderr)
	}
	return errors.Join(err, os.RemoveAll(s.Dir))
}

// Start is Open for a server that goes with the test.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s, err := Open(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Restart starts a stopped or killed server on the same directory, with its
// first arguments.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

// Try starts a server that is expected to fail and returns its error output.
func Try(t testing.TB, args ...string) string {
	t.Helper()
	s, err := prepare(args)
	if err != nil {
		t.Fatal(err)
	}
	err = s.start()
	if closed := s.Close(); closed != nil {
		t.Error(closed)
	}
	if err == nil {
		t.Fatalf("API server with %v started", args)
	}
	return s.stderr.String()
}

// Launch starts a stopped or killed server and does not wait for it.
func (s *Server) Launch(t testing.TB) {
	t.Helper()
	if _, err := s.launch(); err != nil {
		t.Fatalf("start API server: %v", err)
	}
}

// prepare makes a server that does not run, and its directory.
func prepare(args []string) (*Server, error) {
	// Unix socket paths are short, so a short name in the shortest directory.
	dir, err := os.MkdirTemp("", "sk")
	if err != nil {
		return nil, err
	}
	return &Server{Dir: dir, args: args}, nil
}

// launch returns a channel that gets the kubeconfig when the server is ready,
// or nothing when it ends before.
func (s *Server) launch() (ready <-chan string, err error) {
	path := s.program
	if path == "" {
		if path, err = program(); err != nil {
			return nil, err
		}
	}
	s.cmd = exec.Command(path, append([]string{"-dir", s.Dir, "-stop-on-stdin"}, s.args...)...)
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
		return fmt.Errorf("start API server: %w", err)
	}
	select {
	case kubeconfig := <-ready:
		if kubeconfig == "" {
			<-s.exited
			return errors.Join(fmt.Errorf("API server ended before it was ready: %s", s.stderr), s.exit)
		}
		if s.config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
			return fmt.Errorf("kubeconfig %q: %w", kubeconfig, err)
		}
		s.config.QPS = -1
		return nil
	case <-time.After(startTimeout):
		s.Kill()
		return fmt.Errorf("API server: not ready in time\n%s", s.stderr)
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

// Signal sends sig to the server, unless it has ended.
func (s *Server) Signal(sig syscall.Signal) { _ = s.cmd.Process.Signal(sig) }

// Exited is closed when the server has ended.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// Kill ends the server without warning and waits for its end.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.exited
}

// Log is what the server has written to its standard error so far.
func (s *Server) Log() string { return s.stderr.String() }

// Config returns a client configuration for the cluster's admin, without
// client-side limits.
func (s *Server) Config() *rest.Config { return rest.CopyConfig(s.config) }

// CertificateConfig returns a client configuration with one of the
// certificates in pki, for example "kubelet-client".
func (s *Server) CertificateConfig(name string) *rest.Config {
	config := rest.AnonymousClientConfig(s.Config())
	config.QPS = -1
	config.CertFile = filepath.Join(s.Dir, "pki", name+".crt")
	config.KeyFile = filepath.Join(s.Dir, "pki", name+".key")
	return config
}

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
