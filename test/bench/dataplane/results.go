package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/test/bench/dataplane/arena"
)

// Results is dataplane.json.
type Results struct {
	Machine string `json:"machine"`
	Kernel  string `json:"kernel"`
	// Load is the machine's load average when the run began: others' work.
	Load  string    `json:"load"`
	Begun time.Time `json:"begun"`
	Sizes []Size    `json:"sizes"`
}

// Size is all that was measured at one number of Services.
type Size struct {
	Services int `json:"services"`
	// Agents by subject.
	Agents map[string]*Agent `json:"agents"`
	// Paths by number of endpoints, then by subject.
	Paths map[string]map[string]*Path `json:"paths"`
}

// Agent is what serving costs beside the path, a value a node or a change.
type Agent struct {
	LoadSeconds    []float64 `json:"loadSeconds"`
	LoadCPUSeconds []float64 `json:"loadCPUSeconds"`
	FillMillis     []float64 `json:"fillMillis,omitempty"`
	PSSMB          []float64 `json:"pssMB"`
	AnonymousMB    []float64 `json:"anonymousMB"`
	MapsMB         []float64 `json:"mapsMB,omitempty"`
	// Series are changes that follow each other, Alone those after a quiet
	// second.
	Series       Changes   `json:"series"`
	Alone        Changes   `json:"alone"`
	ChangeMicros []float64 `json:"changeMicros,omitempty"`
}

// Changes are API writes, until the API server's answer and until every
// node's clients got through.
type Changes struct {
	WriteMillis     []float64 `json:"writeMillis"`
	EveryNodeMillis []float64 `json:"everyNodeMillis"`
}

func (a *Agent) add(m memory) {
	a.PSSMB = append(a.PSSMB, m.pss)
	a.AnonymousMB = append(a.AnonymousMB, m.anonymous)
	if m.maps > 0 {
		a.MapsMB = append(a.MapsMB, m.maps)
	}
}

// Path is what the way to a Service costs.
type Path struct {
	Connect     Times     `json:"connect"`
	Exchange    Times     `json:"exchange"`
	StreamGbits []float64 `json:"streamGbits"`
}

// Times are durations of many operations of the same kind.
type Times struct {
	// all are nanoseconds, of every round.
	all []uint32
	// Medians of each round, in microseconds.
	Medians []float64 `json:"medians"`
	// Rates of each round, per second.
	Rates []float64 `json:"rates"`

	N      int     `json:"n"`
	Median float64 `json:"p50"`
	P99    float64 `json:"p99"`
}

func (t *Times) add(a arena.Answer) {
	t.all = append(t.all, a.Samples...)
	slices.Sort(a.Samples)
	t.Medians = append(t.Medians, micros(quantile(a.Samples, 0.5)))
	t.Rates = append(t.Rates, float64(len(a.Samples))/(float64(a.Elapsed)/1e9))
}

// sum is done once, at the end.
func (t *Times) sum() {
	slices.Sort(t.all)
	t.N, t.Median, t.P99 = len(t.all), micros(quantile(t.all, 0.5)), micros(quantile(t.all, 0.99))
}

func micros(ns uint32) float64 { return float64(ns) / 1e3 }

// quantile of sorted values: the smallest that a share q of them does not
// exceed.
func quantile[T any](sorted []T, q float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	i := int(q * float64(len(sorted)))
	return sorted[min(i, len(sorted)-1)]
}

// ratios divides round by round.
func ratios(a, b []float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		out = append(out, a[i]/b[i])
	}
	return out
}

func newResults() *Results {
	return &Results{
		Machine: fmt.Sprintf("%d cores, %s", runtime.NumCPU(), processor()), Kernel: contents("/proc/sys/kernel/osrelease"),
		Load: contents("/proc/loadavg"), Begun: time.Now().UTC(),
	}
}

func processor() string {
	for line := range strings.Lines(contents("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

func contents(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(data))
}

// write writes both files; what was measured so far outlives an interruption.
func (r *Results) write(dir string) error {
	for _, s := range r.Sizes {
		for _, subjects := range s.Paths {
			for _, p := range subjects {
				p.Connect.sum()
				p.Exchange.sum()
			}
		}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "dataplane.json"), data, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "dataplane.md"), []byte(markdown(r)), 0o644)
}
