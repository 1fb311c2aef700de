package agent

import (
	"fmt"
	"net/netip"

	"k8s.io/client-go/rest"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/lifeline"
)

// Reach has config connect to whichever of several API servers serves, the
// first one before others; with no list, to where config says. All clients that
// are made of the result share its connections. Nothing is compressed on the
// way, which is short: it would take 50 kB for each watch in the node, and time
// at both ends.
func Reach(config *rest.Config, servers []netip.AddrPort) (*rest.Config, error) {
	config = rest.CopyConfig(config)
	config.DisableCompression = true
	if len(servers) == 0 {
		return config, nil
	}
	config.ServerName = machinev1alpha1.APIServerName
	config.Dial = (&lifeline.Dialer{Servers: servers}).Dial
	// client-go shares connections between clients that dial in the same way,
	// and takes every copy of a function for another way.
	connected := rest.AnonymousClientConfig(config)
	connected.TLSClientConfig, connected.Dial = config.TLSClientConfig, config.Dial
	transport, err := rest.TransportFor(connected)
	if err != nil {
		return nil, fmt.Errorf("make the transport to the API servers: %w", err)
	}
	config.TLSClientConfig, config.Dial, config.Transport = rest.TLSClientConfig{}, nil, transport
	return config, nil
}
