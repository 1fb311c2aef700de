package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/test/bench/dataplane/arena"
)

func TestQuantileOfSortedValues(t *testing.T) {
	hundred := make([]uint32, 100)
	for i := range hundred {
		hundred[i] = uint32(i + 1)
	}
	for _, c := range []struct {
		of   []uint32
		q    float64
		want uint32
	}{
		{nil, 0.5, 0},
		{[]uint32{7}, 0.99, 7},
		{hundred, 0.5, 51},
		{hundred, 0.99, 100},
		{hundred, 1, 100},
	} {
		if got := quantile(c.of, c.q); got != c.want {
			t.Errorf("quantile %v of %d values is %d, want %d", c.q, len(c.of), got, c.want)
		}
	}
}

func TestTimesKeepEveryRoundAndTheWhole(t *testing.T) {
	var times Times
	times.add(arena.Answer{Samples: []uint32{3000, 1000, 2000}, Elapsed: 6000})
	times.add(arena.Answer{Samples: []uint32{9000, 8000, 7000}, Elapsed: 30000})
	times.sum()
	if !slices.Equal(times.Medians, []float64{2, 8}) || times.N != 6 || times.Median != 7 || times.P99 != 9 {
		t.Errorf("%+v", times)
	}
	if !slices.Equal(times.Rates, []float64{500000, 100000}) {
		t.Errorf("rates %v", times.Rates)
	}
}

func TestReportComparesWithinTheRound(t *testing.T) {
	path := func(medians ...float64) *Path {
		p := &Path{StreamGbits: []float64{1, 3, 2}}
		p.Connect.Medians, p.Exchange.Medians = medians, medians
		p.Connect.Rates = []float64{12345}
		return p
	}
	// The machine was twice as slow in the second round.
	paths := map[string]*Path{"direct": path(10, 20), "skiff": path(11, 22), "nftables": path(12, 24), "iptables": path(20, 40)}
	agents := map[string]*Agent{"skiff": {ChangeMicros: []float64{100, 300, 200}, LoadSeconds: []float64{0.5}}, "nftables": {}, "iptables": {}}
	report := markdown(&Results{Machine: "m", Kernel: "k", Sizes: []Size{
		{Services: 10000, Agents: agents, Paths: map[string]map[string]*Path{"1": paths, "100": paths}},
	}})
	for _, want := range []string{"| 10,000, 100 | skiff |", "1.10 (1.10–1.10)", "2.00 (2.00–2.00)", "2.0 (1.0–3.0)", "12,345", "0.2 / 0.3 (n = 3)", "0.50 (0.50–0.50)", "maximum of 2 rounds"} {
		if !strings.Contains(report, want) {
			t.Errorf("%q is not in the report:\n%s", want, report)
		}
	}
}

func TestFieldReadsNumbersOfProc(t *testing.T) {
	text := []byte("Pss:              1234 kB\nAnonymous:         56 kB\nmap_id:\t7\nempty:\n")
	for name, want := range map[string]float64{"Pss:": 1234, "Anonymous:": 56, "map_id:": 7, "memlock:": 0, "empty:": 0} {
		if got := field(text, name); got != want {
			t.Errorf("%s %v, want %v", name, got, want)
		}
	}
}

func TestNumbersOfServicesGrow(t *testing.T) {
	for list, want := range map[string][]int{"1": {1}, "1,1000,10000": {1, 1000, 10000}, "": nil, "0": nil, "2,2": nil, "7,x": nil} {
		var o options
		if err := o.setSizes(list); (err == nil) != (want != nil) {
			t.Errorf("%q: %v", list, err)
		} else if err == nil && !slices.Equal(o.sizes, want) {
			t.Errorf("%q: got %v, want %v", list, o.sizes, want)
		}
	}
}
