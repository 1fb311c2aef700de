package lb

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/sandbox"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// thousands are n frontends with so many backends each, nobody's but theirs.
func thousands(n, backends int) []table.Frontend {
	var all []table.Frontend
	for i := range n {
		f := table.Frontend{Key: key(netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), 80, inet.TCP)}
		for j := range backends {
			f.Backends = append(f.Backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(128 + j), byte(i >> 8), byte(i)}), 8080))
		}
		all = append(all, f)
	}
	return all
}

// BenchmarkLoad is what a node pays at its start: maps, programs, attachment.
// cpu-ns is what the process and the kernel for it took.
func BenchmarkLoad(b *testing.B) {
	sandbox.Root(b)
	for name, families := range map[string][]corev1.IPFamily{"IPv4": families[:1], "DualStack": families} {
		b.Run(name, func(b *testing.B) {
			var spent time.Duration
			for b.Loop() {
				before := cpuTime(b)
				tab, err := table.Create("")
				if err != nil {
					b.Fatal(err)
				}
				s, err := loadSockets(tab, mustCookie(b), sandbox.Cgroup(), "", families)
				if err != nil {
					b.Fatal(err)
				}
				if err := s.attach(); err != nil {
					b.Fatal(err)
				}
				spent += cpuTime(b) - before
				b.StopTimer()
				s.close()
				tab.Close()
				b.StartTimer()
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "cpu-ns")
		})
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
	s, err := loadSockets(tab, mustCookie(b), sandbox.Cgroup(), "", families)
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
			if err := c.(*net.TCPConn).SetLinger(0); err != nil {
				b.Fatal(err)
			}
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
// from the API server's bytes to the maps of its node, and what it holds then.
func BenchmarkStart(b *testing.B) {
	sandbox.Root(b)
	var services corev1.ServiceList
	var endpoints discoveryv1.EndpointSliceList
	for i := range 10000 {
		name := fmt.Sprintf("s%d", i)
		ip := netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}).String()
		services.Items = append(services.Items, *web(func(s *corev1.Service) {
			written(&s.ObjectMeta)
			s.Name, s.UID, s.Spec.ClusterIP, s.Spec.ClusterIPs = name, uuid.NewUUID(), ip, []string{ip}
		}))
		es := sliceOf(fmt.Sprintf("10.128.%d.%d@n1", i>>8, i&255))
		written(&es.ObjectMeta)
		es.Name, es.Namespace, es.Labels = name+"-x7fq2", "default", map[string]string{discoveryv1.LabelServiceName: name}
		endpoints.Items = append(endpoints.Items, *es)
	}
	rawServices, rawEndpoints := encode(b, &services), encode(b, &endpoints)
	services, endpoints = corev1.ServiceList{}, discoveryv1.EndpointSliceList{}
	var took, heap, cpu []float64
	for b.Loop() {
		b.StopTimer()
		tab, err := table.Create("")
		if err != nil {
			b.Fatal(err)
		}
		l := &Loader{log: slog.Default(), feed: newFeed(nil, "n1"), health: newHealth("n1", nil, nil), departures: newDepartures()}
		l.hostPorts.frontends = map[table.Key]table.Frontend{}
		l.targets = []*target{{name: "node", node: "n1", table: tab, claims: newClaims()}}
		before, start, spent := liveHeap(), time.Now(), cpuTime(b)
		b.StartTimer()
		l.load(b, rawServices, rawEndpoints)
		c, _ := l.feed.take()
		if failed := l.apply(c); len(failed) > 0 {
			b.Fatal(failed)
		}
		b.StopTimer()
		took = append(took, time.Since(start).Seconds()*1000)
		cpu = append(cpu, (cpuTime(b)-spent).Seconds()*1000)
		heap = append(heap, liveHeap()-before)
		runtime.KeepAlive(l)
		if n := len(tab.Frontends()); n != 10000 {
			b.Fatalf("%d frontends", n)
		}
		tab.Close()
		b.StartTimer()
	}
	for name, all := range map[string][]float64{"ms": took, "cpu-ms": cpu, "heap-MB": heap} {
		slices.Sort(all)
		b.ReportMetric(all[0], "min-"+name)
		b.ReportMetric(all[len(all)/2], "p50-"+name)
		b.ReportMetric(all[len(all)-1], "max-"+name)
	}
}

// load gives the feed what reflectors would.
func (l *Loader) load(b *testing.B, services, endpoints []byte) {
	f := l.feed
	l.feed.missing = 2
	replace := func(s *kindStore, raw []byte, items *[]any, each func([]byte) error) {
		if err := readList(bytes.NewReader(raw), &metav1.ListMeta{}, each); err != nil {
			b.Fatal(err)
		}
		if err := s.Replace(*items, ""); err != nil {
			b.Fatal(err)
		}
	}
	var slabs serviceSlabs
	var sliceSlabs sliceSlabs
	var read, readSlices []any
	replace(&kindStore{feed: f, put: f.putService}, services, &read, each(func(s *corev1.Service) { read = append(read, slabs.take(f.readService(s))) }))
	replace(&kindStore{feed: f, put: f.putSlice}, endpoints, &readSlices, each(func(s *discoveryv1.EndpointSlice) { readSlices = append(readSlices, sliceSlabs.take(f.readSlice(s))) }))
}

func liveHeap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers and weak pointers let go of
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / 1e6
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
