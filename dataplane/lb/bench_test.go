package lb

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// thousands are n frontends with one backend each.
func thousands(n int, backend netip.AddrPort) []table.Frontend {
	var all []table.Frontend
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)})
		all = append(all, table.Frontend{Key: key(addr, 80, table.TCP), Backends: []netip.AddrPort{backend}})
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
	all := thousands(10000, netip.MustParseAddrPort("10.244.0.1:80"))
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
}

// BenchmarkChange is one service of 10,000 that gets another endpoint.
func BenchmarkChange(b *testing.B) {
	sandbox.Root(b)
	tab, err := table.Create("")
	if err != nil {
		b.Fatal(err)
	}
	defer tab.Close()
	all := thousands(10000, netip.MustParseAddrPort("10.244.0.1:80"))
	if err := tab.Replace(all); err != nil {
		b.Fatal(err)
	}
	f := all[5000]
	port := uint16(1)
	for b.Loop() {
		port++
		f.Backends = []netip.AddrPort{netip.AddrPortFrom(f.Backends[0].Addr(), port)}
		if _, err := tab.Set(f); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnect is connect and close, to a service among 10,000 and to the
// backend itself, turn by turn.
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
	all := thousands(10000, backend)
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
	var spent [2]time.Duration
	n := 0
	for b.Loop() {
		for i, target := range targets {
			start := time.Now()
			c, err := net.Dial("tcp4", target)
			if err != nil {
				b.Fatal(err)
			}
			spent[i] += time.Since(start)
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		n++
	}
	b.ReportMetric(float64(spent[0].Nanoseconds())/float64(n), "direct-ns")
	b.ReportMetric(float64(spent[1].Nanoseconds())/float64(n), "service-ns")
	b.ReportMetric(float64(spent[1])/float64(spent[0]), "ratio")
}
