package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// titles are the subjects, by name.
var titles = map[string]string{
	"none":    "API server alone",
	"skiff":   "skiff",
	"raised":  "upstream, limit raised",
	"shipped": "upstream as shipped",
}

// subject is a running API server with controllers.
type subject struct {
	name, programs string
	server         *apiservertest.Server
	// manager is upstream's program, nil with ours.
	manager *exec.Cmd
}

// start runs the API server, yet without controllers.
func start(name, programs string) (*subject, error) {
	args := []string{"-controllers=false"}
	if name == "skiff" {
		args = []string{"-await"}
	}
	server, err := apiservertest.OpenProgram(filepath.Join(programs, "controlplane"), args...)
	if err != nil {
		return nil, err
	}
	return &subject{name: name, programs: programs, server: server}, nil
}

// begin starts the controllers: ours in the API server's process, upstream's
// as a program.
func (s *subject) begin() error {
	if s.name == "skiff" {
		s.server.Signal(syscall.SIGUSR1)
		return nil
	}
	return s.startUpstream(filepath.Join(s.programs, "kube-controller-manager"), s.name == "raised")
}

// startUpstream runs kube-controller-manager with kubeadm's flags.
func (s *subject) startUpstream(program string, raised bool) error {
	pki := filepath.Join(s.server.Dir, "pki")
	kubeconfig := filepath.Join(s.server.Dir, "kubeconfig")
	args := []string{
		"--kubeconfig", kubeconfig, "--secure-port", "0", "--use-service-account-credentials",
		"--root-ca-file", filepath.Join(pki, "ca.crt"), "--service-account-private-key-file", filepath.Join(pki, "sa.key"),
		"--cluster-signing-cert-file", filepath.Join(pki, "ca.crt"), "--cluster-signing-key-file", filepath.Join(pki, "ca.key"),
		"--allocate-node-cidrs", "--cluster-cidr", "10.244.0.0/16", "--service-cluster-ip-range", "10.96.0.0/16",
	}
	if raised {
		args = append(args, "--kube-api-qps", "1000", "--kube-api-burst", "2000", "--leader-elect=false")
	}
	log, err := os.Create(filepath.Join(s.server.Dir, "manager.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.manager = exec.Command(program, args...)
	s.manager.Stdout, s.manager.Stderr = log, log
	s.manager.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.manager.Start(); err != nil {
		s.manager = nil
		return fmt.Errorf("start %s: %w", program, err)
	}
	return nil
}

func (s *subject) stop() error {
	if s.manager != nil {
		_ = s.manager.Process.Kill()
		_ = s.manager.Wait()
	}
	return s.server.Close()
}

// pids are the API server and, where it is a process of its own, upstream's
// program.
func (s *subject) pids() []int {
	pids := []int{s.server.PID()}
	if s.manager != nil {
		pids = append(pids, s.manager.Process.Pid)
	}
	return pids
}

// cpu is the processor time used so far.
func (s *subject) cpu() (used time.Duration, err error) {
	for _, pid := range s.pids() {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return 0, err
		}
		for _, t := range threads {
			line, err := os.ReadFile(t)
			if err != nil {
				continue // the thread ended
			}
			ns, err := strconv.ParseInt(strings.Fields(string(line))[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", t, err)
			}
			used += time.Duration(ns)
		}
	}
	return used, nil
}

// anonymous is memory that no file backs, in MB.
func (s *subject) anonymous() (float64, error) {
	total := 0.0
	for _, pid := range s.pids() {
		path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
		data, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		_, rest, ok := strings.Cut(string(data), "\nAnonymous:")
		if !ok {
			return 0, fmt.Errorf("%s: no line Anonymous", path)
		}
		kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		total += kb / 1024
	}
	return total, nil
}
