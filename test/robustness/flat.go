package robustness

import (
	"fmt"
	"slices"
	"strings"
)

// Figure is one number that a process or a machine has at a quiet moment.
type Figure struct{ Subject, Name string }

// Names of the figures that are not plain counts.
const (
	// FigurePSS, FigureAnonymous and FigureLive are memory in MB.
	FigurePSS       = "PSS, MB"
	FigureAnonymous = "anonymous, MB"
	FigureLive      = "live, MB"
	// FigureThreads never falls: Go keeps a thread for the next time that as
	// many block in the kernel.
	FigureThreads = "threads"
)

// leastSamples of a third: one alone is chance.
const leastSamples = 3

// judged says whether a figure can show a leak. PSS depends on who else has the
// same program's pages, and of the control plane's a good part is etcd's file.
func judged(f Figure) bool { return f.Name != FigureThreads && f.Name != FigurePSS }

// Memory moves with every collection of garbage: it has grown if its median
// did by more than this.
const (
	memoryShare = 1.05
	memorySlack = 2 // MB
)

// Trend compares the samples of a figure in the first third of a run with those
// in the last.
type Trend struct {
	Figure
	// First and Last are medians; Most is the highest of the first third, Least
	// the lowest of the last.
	First, Last, Most, Least float64
	Grew                     bool
}

// Trends of a run's samples, each with every figure, in the order of their
// names. Too few samples have none.
func Trends(samples []map[Figure]float64) []Trend {
	third := len(samples) / 3
	if third < leastSamples {
		return nil
	}
	var all []Trend
	for f := range samples[0] {
		first, last := valuesOf(samples[:third], f), valuesOf(samples[len(samples)-third:], f)
		t := Trend{Figure: f, First: middle(first), Last: middle(last), Most: slices.Max(first), Least: slices.Min(last)}
		switch {
		case !judged(f):
		case f.Name == FigureAnonymous || f.Name == FigureLive:
			t.Grew = t.Last > t.First*memoryShare+memorySlack
		default:
			t.Grew = t.Least > t.Most
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b Trend) int {
		if c := strings.Compare(a.Subject, b.Subject); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

func valuesOf(samples []map[Figure]float64, f Figure) []float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, s[f])
	}
	return all
}

func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// Table of trends, as Markdown.
func Table(trends []Trend) string {
	var b strings.Builder
	b.WriteString("| | | first third | last third | |\n|---|---|---|---|---|\n")
	for _, t := range trends {
		verdict := "flat"
		switch {
		case t.Grew:
			verdict = "**grew**"
		case !judged(t.Figure):
			verdict = "not judged"
		}
		fmt.Fprintf(&b, "| %s | %s | %.4g | %.4g | %s |\n", t.Subject, t.Name, t.First, t.Last, verdict)
	}
	return b.String()
}
