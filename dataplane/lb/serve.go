package lb

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/utils/ptr"
)

// Where upstream's proxy answers, on every node.
const (
	HealthzAddress = ":10256"
	MetricsAddress = "127.0.0.1:10249"
)

// proxyMode is the answer to /proxyMode, beside upstream's iptables, ipvs and
// nftables.
const proxyMode = "ebpf"

// readHeaderTimeout keeps idle callers from holding connections for ever.
const readHeaderTimeout = 10 * time.Second

// server is one HTTP server and what it serves on.
type server struct {
	http.Server
	done chan struct{}
}

// serve starts the servers of the Config. One whose address is taken, by a
// proxy that somebody runs on the node, is left out: Services go on without.
func (l *Loader) serve() []*server {
	var running []*server
	for addr, handler := range map[string]http.Handler{
		l.cfg.HealthzAddress: l.healthzHandler(),
		l.cfg.MetricsAddress: l.metricsHandler(),
	} {
		if addr == "" {
			continue
		}
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			l.log.Error("health and metrics of the service proxy not served", "address", addr, "err", err)
			continue
		}
		s := &server{Server: http.Server{Handler: handler, ReadHeaderTimeout: readHeaderTimeout}, done: make(chan struct{})}
		running = append(running, s)
		go func() {
			defer close(s.done)
			if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				l.log.Error("health and metrics of the service proxy not served any more", "address", addr, "err", err)
			}
		}()
	}
	return running
}

// stop ends servers and waits for them.
func stop(servers []*server) error {
	var errs []error
	for _, s := range servers {
		errs = append(errs, s.Close())
		<-s.done
	}
	return errors.Join(errs...)
}

// healthzHandler answers load balancers and probes as upstream's proxy does:
// /healthz says whether the node may get traffic, /livez whether the proxy
// works.
func (l *Loader) healthzHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { l.answerHealth(w, true) })
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { l.answerHealth(w, false) })
	return mux
}

func (l *Loader) answerHealth(w http.ResponseWriter, withNode bool) {
	health := l.proxyHealth.Health()
	ok := health.Healthy
	if withNode {
		health.NodeEligible = ptr.To(l.proxyHealth.NodeEligible())
		ok = ok && *health.NodeEligible
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if ok {
		// What is healthy is up to date.
		health.LastUpdated = time.Now()
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(health) // the caller may be gone
}

// metricsHandler is what upstream's proxy shows to the node alone.
func (l *Loader) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	plain := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			fmt.Fprint(w, text)
		}
	}
	mux.HandleFunc("/proxyMode", plain(proxyMode))
	mux.HandleFunc("/healthz", plain("ok"))
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { l.answerHealth(w, false) })
	mux.Handle("/metrics", metrics.HandlerFor(l.meters.registry, metrics.HandlerOpts{}))
	return mux
}
