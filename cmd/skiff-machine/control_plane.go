package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sync/errgroup"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/apis/server"
	"github.com/skiff-k8s/skiff/apis/storage"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/election"
	"github.com/skiff-k8s/skiff/controllers/nodelabels"
	"github.com/skiff-k8s/skiff/controllers/scheduling"
	"github.com/skiff-k8s/skiff/dataplane/dns"
	"github.com/skiff-k8s/skiff/hostnode/agent"
	"github.com/skiff-k8s/skiff/hostnode/handover"
)

// controlPlaneCommand runs etcd, the API server, the scheduler, the
// controllers and cluster DNS in this one process until ctx ends.
func controlPlaneCommand(ctx context.Context, args []string) error {
	releaseGC := server.HoldGC()
	defer releaseGC()
	if len(args) != 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	var cfg machinev1alpha1.ControlPlaneConfiguration
	if err := readConfig(machinev1alpha1.ControlPlaneConfigFile, &cfg); err != nil {
		return err
	}
	logTo(os.Stderr, cfg.Verbosity)
	// Before anything slow: who connects now waits in the backlog.
	listeners, err := apiListeners()
	if err != nil {
		return err
	}
	rep, err := newReplica(cfg)
	if err != nil {
		return err
	}
	etcd, err := storage.New(storage.Config{
		Durable: cfg.Durable, Servers: cfg.EtcdServers,
		CAFile: cfg.EtcdCAFile, CertFile: cfg.EtcdCertFile, KeyFile: cfg.EtcdKeyFile,
		Replica:   rep.member(),
		OnTrouble: tellTrouble,
	})
	if err != nil {
		return err
	}

	// Storage outlives all that uses it; if it fails, its users end.
	storageCtx, stopStorage := context.WithCancel(context.WithoutCancel(ctx))
	usersCtx, stopUsers := context.WithCancel(ctx)
	defer stopUsers()
	stored := make(chan error, 1)
	go func() {
		defer stopUsers()
		stored <- etcd.Run(storageCtx)
	}()
	defer context.AfterFunc(ctx, etcd.Leave)()
	// The lifeline ends last: the others take its end for ours.
	alive := make(chan error, 1)
	go func() {
		defer stopUsers()
		alive <- rep.run(storageCtx, etcd)
	}()
	err = runOnStorage(usersCtx, cfg, etcd, rep, releaseGC, rep.behindGate(listeners))
	stopStorage()
	return errors.Join(err, <-stored, <-alive)
}

// apiListeners are the fabric's port and, handed over, the host's.
func apiListeners() ([]net.Listener, error) {
	inner, err := net.Listen("tcp", fmt.Sprintf(":%d", machinev1alpha1.APIServerPort))
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	files, err := handover.Files(os.Getenv(machinev1alpha1.ListenFDs))
	if err != nil {
		return nil, err
	}
	f := files[machinev1alpha1.SocketAPIServer]
	if f == nil {
		return []net.Listener{inner}, nil
	}
	outer, err := handover.Listener(f)
	if err != nil {
		return nil, err
	}
	return []net.Listener{inner, outer}, nil
}

// runOnStorage composes the API server and starts its clients beside it;
// started is called when the API server is ready.
func runOnStorage(ctx context.Context, cfg machinev1alpha1.ControlPlaneConfiguration, etcd *storage.Storage, rep *replica, started func(), listeners []net.Listener) error {
	api, err := server.New(ctx, server.Config{ControlPlane: cfg, Listeners: listeners, Storage: etcd})
	if err != nil {
		return err
	}
	cloud, err := cloudControllers(cfg.Cloud)
	if err != nil {
		return err
	}
	manager, err := controllers.New(controllers.Config{
		RESTConfig: api.LoopbackClientConfig(), ControlPlane: cfg, NodeLabels: nodeLabels(cfg), CloudDrivers: cloud, VolumePlugins: removedVolumes(cfg.Cloud), Log: slog.Default(),
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return api.Run(ctx) })
	group.Go(func() error {
		select {
		case <-api.Ready():
			started()
			// Of an earlier try.
			_ = os.Remove(machinev1alpha1.TroubleFile)
		case <-ctx.Done():
		}
		return settled(ctx, controlPlaneLook, controlPlaneShare)
	})
	group.Go(func() error { return rep.serve(ctx, api, etcd) })
	group.Go(func() error {
		return rep.elected(ctx, api, map[string]func(context.Context) error{
			election.Controllers: manager.Run,
			election.Scheduler: func(ctx context.Context) error {
				return scheduling.Run(ctx, scheduling.Config{Client: api.LoopbackClientConfig()})
			},
		})
	})
	group.Go(func() error { return dns.Run(ctx, dnsConfiguration(cfg, rep.name(), api)) })
	return group.Wait()
}

// nodeLabels are the labels that kubelets leave to the control plane.
func nodeLabels(cfg machinev1alpha1.ControlPlaneConfiguration) map[string]map[string]string {
	labels := map[string]map[string]string{}
	for node, all := range cfg.NodeLabels {
		_, labels[node] = agent.SplitLabels(all)
	}
	names := []string{cfg.NodeName}
	for _, p := range cfg.ControlPlanes {
		names = append(names, p.Name)
	}
	for _, name := range names {
		if labels[name] == nil {
			labels[name] = map[string]string{}
		}
		labels[name][nodelabels.ControlPlane] = ""
		if cfg.TaintControlPlane {
			labels[name][nodelabels.ExcludeFromLoadBalancers] = ""
		}
	}
	return labels
}

func dnsConfiguration(cfg machinev1alpha1.ControlPlaneConfiguration, replica string, api *server.Server) dns.Config {
	var listen []netip.AddrPort
	for _, ip := range cfg.NodeIPs {
		listen = append(listen, netip.AddrPortFrom(ip, machinev1alpha1.DNSPort))
	}
	return dns.Config{
		Listen: listen, Replica: replica, RESTConfig: api.LoopbackClientConfig(),
		ClusterDomain: cfg.DNSDomain, ServiceIPs: []netip.Addr{cfg.DNSServiceIP}, Upstreams: cfg.UpstreamResolvers,
	}
}

// readConfig reads a configuration file that the supervisor wrote.
func readConfig(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
