package supervise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/fabric"
	"github.com/skiff-k8s/skiff/hostnode/hostdns"
)

// dnsBound is how long cluster DNS may take after the API server is ready: a
// hundred times the usual.
const dnsBound = 20 * time.Second

func (p Paths) hostDNSFiles() hostdns.Files { return hostdns.Files{EtcDir: p.EtcDir} }

// hostDNS is what a cluster that wants it asks of the host.
func (p Paths) hostDNS(c *cluster.Cluster) (hostdns.Config, error) {
	h, err := readHost(p)
	if err != nil {
		return hostdns.Config{}, err
	}
	// What a cluster's device will get when it is made.
	families := familiesOf(&c.Networking)
	path := "/proc/sys/net/ipv4/conf/default/forwarding"
	if families[0] == fabric.IPv6 {
		path = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	forwarding, err := os.ReadFile(path)
	if err != nil {
		return hostdns.Config{}, fmt.Errorf("read the host's forwarding: %w", err)
	}
	return hostdns.Config{
		Files: p.hostDNSFiles(), Cluster: c.Name, Domain: dnsDomain,
		Upstreams: reachable(h.resolvers, families), Forwards: strings.TrimSpace(string(forwarding)) == "1",
	}, nil
}

// checkHostDNS refuses a host on which the wish cannot be granted, before
// anything is made.
func (p Paths) checkHostDNS(ctx context.Context, c *cluster.Cluster) error {
	if !c.Networking.HostDNS {
		return nil
	}
	// Its answer says more than the lines in resolv.conf do.
	if err := p.oneHostDNS(c); err != nil {
		return err
	}
	cfg, err := p.hostDNS(c)
	if err != nil {
		return err
	}
	return hostdns.Check(ctx, cfg)
}

// oneHostDNS refuses a second cluster: each would answer for the same names.
func (p Paths) oneHostDNS(c *cluster.Cluster) error {
	if !c.Networking.HostDNS {
		return nil
	}
	others, err := p.published()
	if err != nil {
		return err
	}
	half, err := p.announced()
	if err != nil {
		return err
	}
	for _, other := range append(others, half...) {
		if name := other.Cluster.Name; other.Cluster.Networking.HostDNS && name != c.Name {
			return &Refusal{
				Field: "networking.hostDNS", Err: fmt.Errorf("cluster %q has it already, and both serve %s", name, dnsDomain),
				Help: "skiff delete cluster --name " + name + ", or create this one without --host-dns",
			}
		}
	}
	return nil
}

// startHostDNS waits for cluster DNS and leads the host's questions to it.
func (p Paths) startHostDNS(ctx context.Context, rec *record) error {
	server, err := dnsServer(rec)
	if err != nil {
		return err
	}
	if err := awaitDNS(ctx, server); err != nil {
		return err
	}
	return p.ensureHostDNS(ctx, rec)
}

// ensureHostDNS writes nothing if all is as it should be.
func (p Paths) ensureHostDNS(ctx context.Context, rec *record) error {
	cfg, err := p.hostDNS(&rec.Cluster)
	if err != nil {
		return err
	}
	if cfg.Server, err = dnsServer(rec); err != nil {
		return err
	}
	f, err := p.newFabric(rec)
	if err != nil {
		return err
	}
	cfg.Device = f.HostDevice()
	unlock, err := p.lockHost(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return hostdns.Ensure(ctx, cfg)
}

// removeHostDNS asks no record: lines in resolv.conf bear the cluster's name.
func (p Paths) removeHostDNS(ctx context.Context, name string) error {
	unlock, err := p.lockHost(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return hostdns.Remove(p.hostDNSFiles(), name)
}

// dnsServer is the address of cluster DNS, the first one of several.
func dnsServer(rec *record) (netip.Addr, error) {
	servers, err := rec.serviceIPs(dnsAddress)
	if err != nil {
		return netip.Addr{}, err
	}
	return servers[0], nil
}

// awaitDNS asks until there is an answer. Before there is a server, a question
// is refused at once.
func awaitDNS(ctx context.Context, server netip.Addr) error {
	ctx, cancel := context.WithTimeoutCause(ctx, dnsBound, fmt.Errorf("cluster DNS does not answer on %s after %v", server, dnsBound))
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
	}}
	for {
		// A name without further ones to search for.
		_, err := resolver.LookupNetIP(ctx, "ip", "kubernetes.default.svc."+dnsDomain+".")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(readyRetry):
		}
	}
}
