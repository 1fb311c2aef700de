package world

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// World is a running API server.
type World struct {
	Client kubernetes.Interface
	// Kubeconfig is an administrator's file for programs on nodes.
	Kubeconfig string

	cmd   *exec.Cmd
	stdin io.Closer
	// services counts those that exist, the first ones of Service.
	services int
}

// Start runs the program on an address of this network namespace, with its
// files below dir.
func Start(ctx context.Context, program, dir string, address netip.Addr) (w *World, err error) {
	cmd := exec.CommandContext(ctx, program, "-dir", filepath.Join(dir, "api"), "-stop-on-stdin",
		"-node-ip", address.String(), "-also-listen", netip.AddrPortFrom(address, 6443).String())
	log, err := os.Create(filepath.Join(dir, "apiserver.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the API server: %w", err)
	}
	w = &World{cmd: cmd, stdin: stdin, Kubeconfig: filepath.Join(dir, "kubeconfig")}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Stop())
		}
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("start the API server: %w: %s", err, said)
	}
	loaded, err := clientcmd.LoadFromFile(strings.TrimSpace(line))
	if err != nil {
		return nil, err
	}
	for _, c := range loaded.Clusters {
		c.Server = fmt.Sprintf("https://%s:6443", address)
	}
	if err := clientcmd.WriteToFile(*loaded, w.Kubeconfig); err != nil {
		return nil, err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", w.Kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	w.Client, err = kubernetes.NewForConfig(cfg)
	return w, err
}

// Stop ends the API server at once: nobody asks for its data again.
func (w *World) Stop() error {
	if err := w.cmd.Process.Kill(); err != nil {
		return err
	}
	w.stdin.Close()
	_ = w.cmd.Wait() // it was killed
	return nil
}
