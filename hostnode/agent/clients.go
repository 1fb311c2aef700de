package agent

import (
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/hostnode/agent/outage"
)

// clients of the API server. They share one connection.
type clients struct {
	// direct waits at no door; it creates the Node.
	direct kubernetes.Interface
	// kube, heartbeat and events are the kubelet's.
	kube      kubernetes.Interface
	heartbeat kubernetes.Interface
	events    corev1.EventsGetter
	// closeIdle drops connections after repeated failures to report.
	closeIdle func()
}

// newClients are the clients of the user "system:node:<name>".
func newClients(cfg Config, d *doors, heartbeatTimeout time.Duration, eventQPS float32, eventBurst int) (*clients, error) {
	base, err := Reach(&rest.Config{
		Host: cfg.Node.APIServer,
		TLSClientConfig: rest.TLSClientConfig{
			CertFile: filepath.Join(cfg.PKIDir, "kubelet-client.crt"),
			KeyFile:  filepath.Join(cfg.PKIDir, "kubelet-client.key"),
			CAFile:   filepath.Join(cfg.PKIDir, "ca.crt"),
		},
		ContentConfig: rest.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
		UserAgent: rest.DefaultKubernetesUserAgent(),
		// Upstream lets a kubelet ask 50 times a second, for API servers with
		// thousands of kubelets. Ours has priority and fairness, and few.
		QPS: -1,
	}, cfg.Node.APIServers)
	if err != nil {
		return nil, err
	}
	// The Node object is created by tries of its own.
	away := &outage.Door{}
	wrapped := func(doors func(http.RoundTripper) http.RoundTripper) *rest.Config {
		config := rest.CopyConfig(base)
		config.Wrap(away.Through)
		config.Wrap(doors)
		return config
	}

	var c clients
	if c.direct, err = kubernetes.NewForConfig(base); err != nil {
		return nil, fmt.Errorf("make the client for the node object: %w", err)
	}

	if c.kube, err = kubernetes.NewForConfig(wrapped(d.behindNode)); err != nil {
		return nil, fmt.Errorf("make the kubelet's client: %w", err)
	}

	heartbeat := wrapped(d.behindStatus)
	heartbeat.Timeout = heartbeatTimeout
	if c.heartbeat, err = kubernetes.NewForConfig(heartbeat); err != nil {
		return nil, fmt.Errorf("make the client for heartbeats: %w", err)
	}

	events := wrapped(d.behindNode)
	events.QPS, events.Burst = eventQPS, eventBurst
	if c.events, err = corev1.NewForConfig(events); err != nil {
		return nil, fmt.Errorf("make the client for events: %w", err)
	}

	transport, err := rest.TransportFor(base)
	if err != nil {
		return nil, fmt.Errorf("make the transport to the API server: %w", err)
	}
	c.closeIdle = func() { utilnet.CloseIdleConnectionsFor(transport) }
	return &c, nil
}
