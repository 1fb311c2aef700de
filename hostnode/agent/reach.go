package agent

import (
	"fmt"
	"net/netip"

	"k8s.io/client-go/rest"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/lifeline"
)

// Reach has config connect to whichever of several API servers serves, the
// first one before others; with no list, config is as it was. All clients that
// are made of the result share its connections.
func Reach(config *rest.Config, servers []netip.AddrPort) (*rest.Config, error) {
	if len(servers) == 0 {
		return config, nil
	}
	config = rest.CopyConfig(config)
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
