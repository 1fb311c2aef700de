package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	gocni "github.com/containerd/go-cni"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/agent"
	"github.com/skiff-k8s/skiff/hostnode/handover"
	"github.com/skiff-k8s/skiff/hostnode/portmap"
	"github.com/skiff-k8s/skiff/hostnode/runtime"
)

// nodeCommand runs a machine's node: containerd, kubelet and the dataplane.
func nodeCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("node", flag.ContinueOnError)
	file := flags.String("config", machinev1alpha1.NodeConfigFile, "the machine's NodeConfiguration")
	if err := flags.Parse(args); err != nil {
		return err
	}
	node := &machinev1alpha1.NodeConfiguration{}
	if err := readConfig(*file, node); err != nil {
		return err
	}
	logTo(os.Stderr, node.Verbosity)

	client, err := dataplaneClient(node)
	if err != nil {
		return err
	}
	policies, err := policyLoader(node, client)
	if err != nil {
		return err
	}
	// Before anything opens a socket: the programs are at the cgroup, and
	// connections to Services are translated as soon as they are known.
	services, err := serviceLoader(node, client, policies)
	if err != nil {
		return err
	}
	var network gocni.CNI
	if !node.ForeignCNI {
		plugin, err := podNetwork(node, services, policies)
		if err != nil {
			return err
		}
		defer plugin.Close()
		network = knownPods{plugin, services}
	}
	files, err := handover.Files(os.Getenv(machinev1alpha1.ListenFDs))
	if err != nil {
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return runServices(ctx, services) })
	group.Go(func() error { return policies.Run(ctx) })
	group.Go(func() error {
		return portmap.Run(ctx, portmap.Config{NodeIPs: node.NodeIPs, Files: files, Log: slog.Default()})
	})
	group.Go(func() error { return runKubelet(ctx, node, network) })
	group.Go(func() error { return settled(ctx, nodeLook, nodeShare) })
	if err := group.Wait(); !errors.Is(err, errStopped) {
		return err
	}
	return nil
}

// runKubelet runs containerd and the kubelet on it. Without a network, pods
// wait for the programs of another one.
func runKubelet(ctx context.Context, node *machinev1alpha1.NodeConfiguration, network gocni.CNI) (err error) {
	cfg := runtime.Config{
		Root:           machinev1alpha1.ContainerdRoot,
		State:          machinev1alpha1.ContainerdState,
		Socket:         machinev1alpha1.ContainerdSocket,
		LibexecDir:     machinev1alpha1.LibexecDir,
		ImageStore:     machinev1alpha1.ImageStoreDir,
		PulledDir:      machinev1alpha1.PulledDir,
		SeccompDefault: node.SeccompDefault,
		Handlers:       map[string]string{},
		Log:            slog.Default(),
	}
	for _, handler := range node.RuntimeHandlers {
		cfg.Handlers[handler.Name] = handler.Path
	}
	if network != nil {
		cfg.CNI = network
	} else {
		cfg.CNIConfDir, cfg.CNIBinDir = machinev1alpha1.CNIConfDir, machinev1alpha1.CNIBinDir
	}
	cri, err := runtime.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cri.Close()) }()

	power := make(chan os.Signal, 1)
	signal.Notify(power, stopSignal)
	defer signal.Stop(power)
	kubeletCtx, stopKubelet := context.WithCancel(ctx)
	defer stopKubelet()
	kubelet := make(chan error, 1)
	go func() {
		kubelet <- agent.Run(kubeletCtx, agent.Config{
			Node:    *node,
			Runtime: cri.RuntimeService(),
			Images:  cri.ImageService(),
			Damaged: tellDamage,
		})
	}()
	select {
	case err := <-kubelet:
		return err
	case <-power:
	}
	// The machine stops, and its pods with it. Without a kubelet nobody
	// writes down that they ended: they are to start again.
	slog.Info("stopping pods")
	stopKubelet()
	if err := errors.Join(<-kubelet, cri.Shutdown(ctx)); err != nil {
		return err
	}
	return errStopped
}

// stopSignal says that the machine stops. SIGTERM and death only end this
// process, and leave the pods running.
const stopSignal = syscall.SIGPWR

// errStopped ends the other half of the process too.
var errStopped = errors.New("the machine stops")

// logTo makes one log of ours and of upstream's.
func logTo(out *os.File, verbosity int) {
	handler := slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.Level(-verbosity)})
	slog.SetDefault(slog.New(handler))
	klog.SetSlogLogger(slog.Default())
	var level klog.Level
	_ = level.Set(fmt.Sprint(verbosity))
}
