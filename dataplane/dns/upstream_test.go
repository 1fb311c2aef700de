package dns

import (
	"errors"
	"net"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/skiff-k8s/skiff/dataplane/internal/apitest"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
)

// silent listens and never answers.
func silent(t *testing.T, addr string) {
	t.Helper()
	c, err := net.ListenPacket("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

func TestUpstreams(t *testing.T) {
	sandbox.Root(t)
	sandbox.Address(t, "lo", listen.Addr().String()+"/32")
	sandbox.Address(t, "lo", "192.0.2.1/32")
	sandbox.Address(t, "lo", "192.0.2.2/32")
	// Answers every question with 198.51.100.1.
	c, err := net.ListenPacket("udp4", "192.0.2.1:53")
	if err != nil {
		t.Fatal(err)
	}
	upstream := &mdns.Server{PacketConn: c, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, r *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(r)
		if r.Question[0].Qtype == mdns.TypeA {
			rr, _ := mdns.NewRR(r.Question[0].Name + " 60 IN A 198.51.100.1")
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m) // the client asks again
	})}
	started := make(chan struct{})
	upstream.NotifyStartedFunc = func() { close(started) }
	served := make(chan error, 1)
	go func() { served <- upstream.ActivateAndServe() }()
	<-started
	defer func() {
		if err := errors.Join(upstream.Shutdown(), <-served); err != nil {
			t.Error(err)
		}
	}()
	silent(t, "192.0.2.2:53")

	for _, c := range []struct {
		name      string
		upstreams []string
		want      string
		within    time.Duration
	}{
		{"one that answers", []string{"127.0.0.53", "192.0.2.1"}, "198.51.100.1", time.Second},
		{"only the host's loopback", []string{"127.0.0.53"}, "NXDOMAIN", 200 * time.Millisecond},
		{"one that nothing leads to", []string{"203.0.113.1"}, "SERVFAIL", 200 * time.Millisecond},
		{"one where nobody listens", []string{"192.0.2.1:54"}, "SERVFAIL", 200 * time.Millisecond},
		// CoreDNS waits 2 s twice, and after that knows.
		{"one that is silent", []string{"192.0.2.2"}, "SERVFAIL", 6 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			api := apitest.Start(t)
			startDNS(t, api, c.upstreams...)
			eventually(t, "udp", "kubernetes.default.svc.cluster.local", mdns.TypeA, "10.96.0.1")
			start := time.Now()
			got, err := askFor("udp", "example.com", mdns.TypeA, 8*time.Second)
			d := time.Since(start)
			t.Logf("%q, %v after %s", got, err, d)
			if err != nil || got != c.want || d > c.within {
				t.Errorf("got %q, %v after %s; want %q within %s", got, err, d, c.want, c.within)
			}
			if c.within <= time.Second {
				return
			}
			for since := time.Now(); time.Since(since) < 10*time.Second; {
				start := time.Now()
				if got, err := askFor("udp", "example.org", mdns.TypeA, 8*time.Second); err != nil || got != c.want {
					t.Errorf("got %q, %v; want %q", got, err, c.want)
				}
				if d = time.Since(start); d < 100*time.Millisecond {
					return
				}
			}
			t.Errorf("still answers after %s only", d)
		})
	}
}
