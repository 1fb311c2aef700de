package dns

import (
	"context"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
)

// outsidePlugin ends the chain of a server block that forwards nowhere: what
// is not in the cluster does not exist. Upstream's answer would be SERVFAIL
// and a line in the log for each query, and clients would ask again.
const outsidePlugin = "skiff_outside"

type outside struct{}

var _ plugin.Handler = outside{}

func setupOutside(c *caddy.Controller) error {
	dnsserver.GetConfig(c).AddPlugin(func(plugin.Handler) plugin.Handler { return outside{} })
	return nil
}

// Name implements plugin.Handler.
func (outside) Name() string { return outsidePlugin }

// ServeDNS implements plugin.Handler.
func (outside) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	m := new(dns.Msg)
	m.SetRcode(r, dns.RcodeNameError)
	m.RecursionAvailable = true
	return dns.RcodeNameError, w.WriteMsg(m)
}
