package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/apis/server"
	"github.com/skiff-k8s/skiff/apis/server/listener"
	"github.com/skiff-k8s/skiff/apis/storage"
	"github.com/skiff-k8s/skiff/controllers/election"
	"github.com/skiff-k8s/skiff/dataplane/dns"
	"github.com/skiff-k8s/skiff/hostnode/lifeline"
)

const (
	// leaderLook is how often is looked whether etcd has a leader: the loss of
	// one is no event. leaderless is how long it may have none before clients
	// are sent to other API servers: an election takes less.
	leaderLook = 250 * time.Millisecond
	leaderless = 1500 * time.Millisecond
)

// replica is what a control plane does because it is one of several. A nil one
// is the only one, and does nothing.
type replica struct {
	cfg   machinev1alpha1.ControlPlaneConfiguration
	line  *lifeline.Server
	conn  net.Listener
	gate  *listener.Gate
	peers []machinev1alpha1.Peer
}

// newReplica is nil for the only control plane.
func newReplica(cfg machinev1alpha1.ControlPlaneConfiguration) (*replica, error) {
	if !cfg.Replicated() {
		return nil, nil
	}
	at := netip.AddrPortFrom(cfg.NodeIPs[0], machinev1alpha1.LifelinePort)
	conn, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("lifeline: %w", err)
	}
	r := &replica{cfg: cfg, conn: conn, gate: listener.NewGate()}
	r.line = lifeline.New(cfg.NodeName+"_"+uuid.NewString(), cfg.LifelineClients)
	for _, p := range cfg.ControlPlanes {
		if p.Name != cfg.NodeName {
			r.peers = append(r.peers, p)
		}
	}
	return r, nil
}

// member is the etcd member's place among the others.
func (r *replica) member() *storage.Replica {
	if r == nil || len(r.cfg.EtcdServers) > 0 {
		return nil
	}
	m := &storage.Replica{
		Name: r.cfg.NodeName, Join: r.cfg.EtcdJoin, Formed: machinev1alpha1.EtcdFormedFile,
		CAFile: machinev1alpha1.EtcdPeerCAFile, CertFile: machinev1alpha1.EtcdPeerCertFile, KeyFile: machinev1alpha1.EtcdPeerKeyFile,
	}
	for _, p := range r.cfg.ControlPlanes {
		m.Members = append(m.Members, storage.Member{Name: p.Name, Address: p.IPs[0]})
	}
	return m
}

// behindGate are the listeners of the fabric and the host.
func (r *replica) behindGate(listeners []net.Listener) []net.Listener {
	if r == nil {
		return listeners
	}
	gated := []net.Listener{r.gate.Own(listeners[0])}
	for _, l := range listeners[1:] {
		if tcp, ok := l.(*net.TCPListener); ok {
			l = r.gate.Shared(tcp)
		}
		gated = append(gated, l)
	}
	return gated
}

// run shows the others that this process lives, from before etcd runs.
func (r *replica) run(ctx context.Context, etcd *storage.Storage) error {
	if r == nil {
		<-ctx.Done()
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.line.Run(ctx, r.conn) })
	for _, p := range r.peers {
		group.Go(func() error {
			lifeline.Watch(ctx, netip.AddrPortFrom(p.IPs[0], machinev1alpha1.LifelinePort), func(e lifeline.Event) {
				switch e.State {
				case lifeline.Gone:
					etcd.PeerGone(p.Name)
				case lifeline.Away, lifeline.Serving:
					etcd.PeerLives(p.Name)
				}
			})
			return nil
		})
	}
	return group.Wait()
}

// serve opens the gate while the API server is ready and etcd has a leader.
func (r *replica) serve(ctx context.Context, api *server.Server, etcd *storage.Storage) error {
	if r == nil {
		return nil
	}
	select {
	case <-api.Ready():
	case <-ctx.Done():
		return nil
	}
	defer r.show(false)
	look := time.NewTicker(leaderLook)
	defer look.Stop()
	for led := time.Now(); ; {
		if etcd.Led() {
			led = time.Now()
		}
		r.show(time.Since(led) < leaderless)
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

func (r *replica) show(serves bool) {
	if serves {
		r.gate.Open()
	} else {
		r.gate.Shut()
	}
	r.line.SetServing(serves)
}

// elected are the parts that one control plane at a time runs, and what is
// cleared away for a peer that is gone.
func (r *replica) elected(ctx context.Context, api *server.Server, parts map[string]func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	if r == nil {
		for _, run := range parts {
			group.Go(func() error { return run(ctx) })
		}
		return group.Wait()
	}
	select {
	case <-api.Ready():
	case <-ctx.Done():
		return nil
	}
	client, err := kubernetes.NewForConfig(api.LoopbackClientConfig())
	if err != nil {
		return fmt.Errorf("make loopback client: %w", err)
	}
	var electors []*election.Elector
	for lease, run := range parts {
		e, err := election.New(election.Config{
			Client: api.LoopbackClientConfig(), Lease: lease, Identity: r.line.Identity(), Run: run, Log: slog.Default(),
		})
		if err != nil {
			return err
		}
		electors = append(electors, e)
		group.Go(func() error { return e.Run(ctx) })
	}
	for _, p := range r.peers {
		group.Go(func() error {
			var clearing sync.WaitGroup
			defer clearing.Wait()
			lifeline.Watch(ctx, netip.AddrPortFrom(p.IPs[0], machinev1alpha1.LifelinePort), func(e lifeline.Event) {
				slog.Info("control plane", "name", p.Name, "state", e.State)
				if e.State != lifeline.Gone && e.State != lifeline.Silent {
					return
				}
				if e.State == lifeline.Gone {
					for _, elector := range electors {
						clearing.Go(func() { elector.Gone(ctx, p.Name, e.Identity) })
					}
				}
				clearing.Go(func() { r.clear(ctx, api, client, p) })
			})
			return nil
		})
	}
	return group.Wait()
}

// clear takes a peer that does not answer out of the Services. It comes back
// by itself.
func (r *replica) clear(ctx context.Context, api *server.Server, client kubernetes.Interface, p machinev1alpha1.Peer) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	api.RemoveEndpoint(p.IPs[0])
	if err := dns.Withdraw(ctx, client, p.Name); err != nil {
		slog.Warn("cluster DNS still leads to a control plane that is away", "name", p.Name, "error", err)
	}
}

// replicaName is what distinguishes this process's objects; empty for the only
// control plane.
func (r *replica) name() string {
	if r == nil {
		return ""
	}
	return strings.ToLower(r.cfg.NodeName)
}
