package robustness

import (
	"strings"
	"testing"
)

func TestTrends(t *testing.T) {
	for name, test := range map[string]struct {
		figure string
		values []float64
		grew   bool
	}{
		"a count that stays":                    {"fds", []float64{20, 21, 20, 22, 20, 21, 20, 20, 21}, false},
		"a count that rises by one each time":   {"fds", []float64{20, 21, 22, 23, 24, 25, 26, 27, 28}, true},
		"a count that was once as high":         {"fds", []float64{20, 25, 22, 23, 24, 25, 25, 25, 26}, false},
		"a count that falls":                    {"goroutines", []float64{90, 90, 90, 80, 80, 80, 70, 70, 70}, false},
		"memory within what collections move":   {FigureAnonymous, []float64{40, 40, 40, 41, 41, 41, 43, 44, 43}, false},
		"memory that rises":                     {FigureLive, []float64{40, 41, 42, 43, 44, 45, 46, 47, 48}, true},
		"threads are kept":                      {FigureThreads, []float64{10, 11, 12, 13, 14, 15, 16, 17, 18}, false},
		"shared memory is others' matter":       {FigurePSS, []float64{40, 41, 42, 43, 44, 45, 56, 57, 58}, false},
		"the samples between them do not count": {"mounts", []float64{1, 1, 1, 9, 9, 9, 1, 1, 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := Figure{Subject: "node", Name: test.figure}
			var samples []map[Figure]float64
			for _, v := range test.values {
				samples = append(samples, map[Figure]float64{f: v})
			}
			trends := Trends(samples)
			if len(trends) != 1 || trends[0].Grew != test.grew {
				t.Errorf("have %+v, want grew %v", trends, test.grew)
			}
		})
	}
	few := make([]map[Figure]float64, 3*leastSamples-1)
	for i := range few {
		few[i] = map[Figure]float64{{"a", "fds"}: float64(i)}
	}
	if got := Trends(few); got != nil {
		t.Errorf("%d samples have %v", len(few), got)
	}
}

func TestTableIsInTheOrderOfSubjects(t *testing.T) {
	sample := map[Figure]float64{{"b", "fds"}: 3, {"a", "threads"}: 2, {"a", "fds"}: 1}
	last := map[Figure]float64{{"b", "fds"}: 4, {"a", "threads"}: 2, {"a", "fds"}: 1}
	got := Table(Trends([]map[Figure]float64{sample, sample, sample, sample, sample, sample, last, last, last}))
	a, b := strings.Index(got, "| a | fds | 1 | 1 | flat |"), strings.Index(got, "| b | fds | 3 | 4 | **grew** |")
	if a < 0 || b < a || !strings.Contains(got, "| a | threads | 2 | 2 | not judged |") {
		t.Errorf("have\n%s", got)
	}
}
