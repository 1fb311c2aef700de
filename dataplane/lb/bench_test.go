package lb

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// thousands are n frontends with so many backends each, nobody's but theirs.
func thousands(n, backends int) []table.Frontend {
	var all []table.Frontend
	for i := range n {
		f := table.Frontend{Key: key(netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), 80, table.TCP)}
		for j := range backends {
			f.Backends = append(f.Backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(128 + j), byte(i >> 8), byte(i)}), 8080))
		}
		all = append(all, f)
	}
	return all
}

// BenchmarkLoad is what a node pays at its start: maps, programs, attachment.
func BenchmarkLoad(b *testing.B) {
	sandbox.Root(b)
	for b.Loop() {
		tab, err := table.Create("")
		if err != nil {
			b.Fatal(err)
		}
		s, err := loadSockets(tab, mustCookie(b), sandbox.Cgroup(), "")
		if err != nil {
			b.Fatal(err)
		}
		if err := s.attach(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.close()
		tab.Close()
		b.StartTimer()
	}
}

// BenchmarkFill is 10,000 services from nothing.
func BenchmarkFill(b *testing.B) {
	sandbox.Root(b)
	for _, backends := range []int{1, 100} {
		b.Run(fmt.Sprintf("10000x%d", backends), func(b *testing.B) {
			all := thousands(10000, backends)
			for b.Loop() {
				b.StopTimer()
				tab, err := table.Create("")
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := tab.Replace(all); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				tab.Close()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkChange is one service of 10,000 that gets another endpoint.
func BenchmarkChange(b *testing.B) {
	sandbox.Root(b)
	for _, backends := range []int{1, 100} {
		b.Run(fmt.Sprintf("10000x%d", backends), func(b *testing.B) {
			tab, err := table.Create("")
			if err != nil {
				b.Fatal(err)
			}
			defer tab.Close()
			all := thousands(10000, backends)
			if err := tab.Replace(all); err != nil {
				b.Fatal(err)
			}
			f := all[5000]
			port := uint16(1)
			var took []time.Duration
			for b.Loop() {
				port++
				f.Backends[0] = netip.AddrPortFrom(f.Backends[0].Addr(), port)
				start := time.Now()
				if _, err := tab.Set(f); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
		})
	}
}

// BenchmarkMemory is what a node's agent holds: the kernel's maps as the
// kernel accounts them, and Go's heap beside them.
func BenchmarkMemory(b *testing.B) {
	sandbox.Root(b)
	for _, size := range []struct{ services, backends int }{{0, 0}, {10000, 1}, {10000, 100}} {
		b.Run(fmt.Sprintf("%dx%d", size.services, size.backends), func(b *testing.B) {
			for b.Loop() {
				var before, after runtime.MemStats
				all := thousands(size.services, size.backends)
				runtime.GC()
				runtime.ReadMemStats(&before)
				tab, err := table.Create("")
				if err != nil {
					b.Fatal(err)
				}
				if err := tab.Replace(all); err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				var kernel uint64
				for _, m := range tab.Maps() {
					info, err := m.Info()
					if err != nil {
						b.Fatal(err)
					}
					if n, ok := info.Memlock(); ok {
						kernel += n
					}
				}
				b.ReportMetric(float64(kernel)/1e6, "kernel-MB")
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "heap-MB")
				runtime.KeepAlive(all)
				tab.Close()
			}
		})
	}
}

// BenchmarkConnect is connect, one byte and close, to a service among 10,000
// and to the backend itself, turn by turn.
func BenchmarkConnect(b *testing.B) {
	sandbox.Root(b)
	l, err := net.Listen("tcp4", "127.0.0.2:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := c.Write([]byte{1}); err != nil {
				b.Error(err)
			}
			c.Close()
		}
	})
	defer func() { l.Close(); wg.Wait() }()
	backend := netip.MustParseAddrPort(l.Addr().String())
	tab, err := table.Create("")
	if err != nil {
		b.Fatal(err)
	}
	defer tab.Close()
	all := thousands(10000, 1)
	all[5000].Backends = []netip.AddrPort{backend}
	if err := tab.Replace(all); err != nil {
		b.Fatal(err)
	}
	s, err := loadSockets(tab, mustCookie(b), sandbox.Cgroup(), "")
	if err != nil {
		b.Fatal(err)
	}
	defer s.close()
	if err := s.attach(); err != nil {
		b.Fatal(err)
	}
	targets := []string{backend.String(), netip.AddrPortFrom(all[5000].Addr, 80).String()}
	var spent [2][]time.Duration
	var one [1]byte
	for round := 0; b.Loop(); round++ {
		for turn := range targets {
			i := (turn + round) % len(targets)
			target := targets[i]
			start := time.Now()
			c, err := net.Dial("tcp4", target)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := c.Read(one[:]); err != nil {
				b.Fatal(err)
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
			spent[i] = append(spent[i], time.Since(start))
		}
	}
	var p50 [2]float64
	for i := range spent {
		slices.Sort(spent[i])
		p50[i] = float64(spent[i][len(spent[i])/2].Nanoseconds())
	}
	b.ReportMetric(p50[0], "direct-p50-ns")
	b.ReportMetric(p50[1], "service-p50-ns")
	b.ReportMetric(p50[1]/p50[0], "ratio")
}

// BenchmarkStart is what a Loader does with 10,000 Services and their slices,
// from objects to the maps of its node.
func BenchmarkStart(b *testing.B) {
	sandbox.Root(b)
	var services []*corev1.Service
	var endpoints []*discoveryv1.EndpointSlice
	for i := range 10000 {
		name := fmt.Sprintf("s%d", i)
		ip := netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}).String()
		services = append(services, web(func(s *corev1.Service) { s.Name, s.Spec.ClusterIP, s.Spec.ClusterIPs = name, ip, []string{ip} }))
		es := sliceOf(fmt.Sprintf("10.128.%d.%d@n1", i>>8, i&255))
		es.Name, es.Namespace, es.Labels = name, "default", map[string]string{discoveryv1.LabelServiceName: name}
		endpoints = append(endpoints, es)
	}
	for b.Loop() {
		b.StopTimer()
		tab, err := table.Create("")
		if err != nil {
			b.Fatal(err)
		}
		l := &Loader{log: slog.Default(), feed: newFeed(nil, "n1"), health: newHealth("n1", nil, nil), departures: newDepartures()}
		l.hostPorts.frontends = map[table.Key]table.Frontend{}
		l.targets = []*target{{name: "node", node: "n1", table: tab, claims: newClaims()}}
		b.StartTimer()
		start := time.Now()
		for i := range services {
			l.feed.putService(services[i])
			l.feed.putSlice(endpoints[i])
		}
		read := time.Since(start)
		l.feed.missing = 0
		l.feed.allDirty = true
		c, _ := l.feed.take()
		if failed := l.apply(c, true); len(failed) > 0 {
			b.Fatal(failed)
		}
		b.ReportMetric(float64(read.Microseconds())/1000, "read-ms")
		b.StopTimer()
		tab.Close()
		b.StartTimer()
	}
}
