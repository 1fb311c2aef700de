package job

import (
	"slices"
	"strconv"
	"strings"
)

// span is the indexes first … last.
type span struct{ first, last int }

// indexes is a set of completion indexes: spans in order that do not touch.
type indexes []span

// parseIndexes reads what indexes.String writes, up to below. What cannot be
// read is left out: somebody else wrote it.
func parseIndexes(text string, below int) indexes {
	var spans indexes
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil {
			continue
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(to); err != nil {
				continue
			}
		}
		if last = min(last, below-1); first <= last {
			spans = append(spans, span{first, last})
		}
	}
	return indexes(nil).union(spans)
}

// String is the set as Jobs write it: 0,2-4,6,7.
func (x indexes) String() string {
	var parts []string
	for _, s := range x {
		switch s.last - s.first {
		case 0:
			parts = append(parts, strconv.Itoa(s.first))
		case 1:
			parts = append(parts, strconv.Itoa(s.first), strconv.Itoa(s.last))
		default:
			parts = append(parts, strconv.Itoa(s.first)+"-"+strconv.Itoa(s.last))
		}
	}
	return strings.Join(parts, ",")
}

// count is how many indexes are in the set.
func (x indexes) count() int {
	n := 0
	for _, s := range x {
		n += s.last - s.first + 1
	}
	return n
}

func (x indexes) has(i int) bool {
	_, found := slices.BinarySearchFunc(x, i, func(s span, i int) int {
		switch {
		case s.last < i:
			return -1
		case s.first > i:
			return 1
		}
		return 0
	})
	return found
}

// with is the set and more, in any order.
func (x indexes) with(more []int) indexes {
	spans := make(indexes, len(more))
	for i, n := range more {
		spans[i] = span{n, n}
	}
	return x.union(spans)
}

// union is what is in either.
func (x indexes) union(other indexes) indexes {
	all := slices.Concat(x, other)
	slices.SortFunc(all, func(a, b span) int { return a.first - b.first })
	var joined indexes
	for _, s := range all {
		if n := len(joined); n > 0 && s.first <= joined[n-1].last+1 {
			joined[n-1].last = max(joined[n-1].last, s.last)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

// common is how many indexes are in both.
func (x indexes) common(other indexes) int {
	n := 0
	for _, a := range x {
		for _, b := range other {
			if both := min(a.last, b.last) - max(a.first, b.first) + 1; both > 0 {
				n += both
			}
		}
	}
	return n
}

// missing are the first n indexes below a limit that are not in the set.
func (x indexes) missing(n, below int) []int {
	var free []int
	next := 0
	for _, s := range append(slices.Clone(x), span{below, below}) {
		for ; next < min(s.first, below) && len(free) < n; next++ {
			free = append(free, next)
		}
		next = max(next, s.last+1)
	}
	return free
}
