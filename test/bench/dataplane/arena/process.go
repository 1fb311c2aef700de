package arena

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/test/bench/cgroup"
)

// Where a process goes and what it gets.
type Where struct {
	// Pod says that it is in the pod; otherwise it is the node's agent.
	Pod bool
	// CPU is the one core that it runs on, counted from 1; 0: on any.
	CPU int
	// OwnRun gives it an empty /run.
	OwnRun bool
	// Log is where its errors go; nil: to ours.
	Log *os.File
}

// Process is one that runs in a node.
type Process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	stop func() error
}

// Start runs a program. Its standard input and output are Process's.
func (n *Node) Start(w Where, args ...string) (*Process, error) {
	part, ns := "/agent", n.node
	if w.Pod {
		part, ns = "/pod", n.pod
	}
	enter := []string{"enter", "-cgroups", strings.Join(joined(n.Cgroup()+part), ",")}
	if w.CPU > 0 {
		enter = append(enter, "-cpu", fmt.Sprint(w.CPU-1))
	}
	if w.OwnRun {
		enter = append(enter, "-own-run")
	}
	cmd := exec.Command(n.arena.loadgen, append(append(enter, "--"), args...)...)
	cmd.Stderr = os.Stderr
	if w.Log != nil {
		cmd.Stderr = w.Log
	}
	if w.Pod {
		// Signals to the thread that measures are no part of what it measures.
		cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	}
	p := &Process{cmd: cmd}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReaderSize(out, 1<<20)
	p.stop = sync.OnceValue(func() error {
		p.in.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		err := cmd.Wait()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
			return nil
		}
		return err
	})
	if err := ns.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", args[0], n.Name, err)
	}
	return p, nil
}

// joined are the directories of a cgroup that programs are attached to and
// that count processor time. The others would only share it out.
func joined(path string) []string {
	return slices.DeleteFunc(cgroup.Directories(path), func(dir string) bool {
		_, v2 := os.Stat(dir + "/cgroup.controllers")
		_, counts := os.Stat(dir + "/cpuacct.usage")
		return v2 != nil && counts != nil
	})
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Freeze stops the process where it is, until Thaw.
func (p *Process) Freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets it go on.
func (p *Process) Thaw() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// RunOn moves the process to a core, counted from 1.
func (p *Process) RunOn(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu - 1)
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID()))
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, &set); err != nil {
			return fmt.Errorf("move to core %d: %w", cpu, err)
		}
	}
	return nil
}

// Stop ends the process, by force if it does not end by itself.
func (p *Process) Stop() error { return p.stop() }

// Line is the next line of its output.
func (p *Process) Line() (string, error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", errors.Join(fmt.Errorf("%s ended: %w", p.cmd.Args, err), p.Stop())
	}
	return strings.TrimSpace(line), nil
}

// Answer is what loadgen says to a command.
type Answer struct {
	Samples []uint32 `json:"samples"`
	Elapsed int64    `json:"elapsed"`
	Bytes   uint64   `json:"bytes"`
	At      int64    `json:"at"`
	Error   string   `json:"error"`
}

// Do gives loadgen a command and waits for the answer.
func (p *Process) Do(command string) (a Answer, err error) {
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		return a, err
	}
	line, err := p.Line()
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal([]byte(line), &a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, fmt.Errorf("%.60s: %s", command, a.Error)
	}
	return a, nil
}

// Serve starts loadgen's server in the pod and waits until it listens.
func (n *Node) Serve(port uint16, cpu int) (*Process, error) {
	p, err := n.Start(Where{Pod: true, CPU: cpu}, n.arena.loadgen, "serve", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return nil, err
	}
	_, err = p.Line()
	return p, err
}

// Caller starts loadgen's client in the pod.
func (n *Node) Caller(cpu int) (*Process, error) {
	return n.Start(Where{Pod: true, CPU: cpu}, n.arena.loadgen, "call")
}
