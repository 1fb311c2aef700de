package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"k8s.io/klog/v2"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/agent"
	"github.com/skiff-k8s/skiff/hostnode/runtime"
)

// nodeCommand runs a machine's node: containerd, kubelet and the dataplane.
func nodeCommand(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("node", flag.ContinueOnError)
	file := flags.String("config", machinev1alpha1.NodeConfigFile, "the machine's NodeConfiguration")
	if err := flags.Parse(args); err != nil {
		return err
	}
	node, err := readNodeConfiguration(*file)
	if err != nil {
		return err
	}
	logTo(os.Stderr, node.Verbosity)

	// Until the node is up there is nothing to collect that would be worth
	// the time; afterwards memory is worth more than time.
	debug.SetGCPercent(400)

	cri, err := runtime.Start(ctx, runtime.Config{
		Root:           machinev1alpha1.ContainerdRoot,
		State:          machinev1alpha1.ContainerdState,
		Socket:         machinev1alpha1.ContainerdSocket,
		LibexecDir:     machinev1alpha1.LibexecDir,
		ImageStore:     machinev1alpha1.ImageStoreDir,
		SeccompDefault: node.SeccompDefault,
		Log:            slog.Default(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cri.Close()) }()

	return agent.Run(ctx, agent.Config{
		Node:    *node,
		Runtime: cri.RuntimeService(),
		Images:  cri.ImageService(),
	})
}

func readNodeConfiguration(file string) (*machinev1alpha1.NodeConfiguration, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read node configuration: %w", err)
	}
	node := &machinev1alpha1.NodeConfiguration{}
	if err := json.Unmarshal(data, node); err != nil {
		return nil, fmt.Errorf("read node configuration %s: %w", file, err)
	}
	return node, nil
}

// logTo makes one log of ours and of upstream's.
func logTo(out *os.File, verbosity int) {
	handler := slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.Level(-verbosity)})
	slog.SetDefault(slog.New(handler))
	klog.SetSlogLogger(slog.Default())
	var level klog.Level
	_ = level.Set(fmt.Sprint(verbosity))
}
