package history

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// write is a revision that somebody saw made.
type write struct {
	revision   int64
	key, value string
	deleted    bool
}

// writes are all of a history that are known, by revision and by object.
type writes struct {
	byRevision map[int64]write
	byKey      map[string][]write
	sorted     []write
	// deletes are the revisions that some Delete of an object demanded and
	// may have taken away.
	deletes map[string]map[int64]bool
}

// writesOf collects them; no revision can be two writes.
func writesOf(h History) (writes, []Violation) {
	w := writes{byRevision: map[int64]write{}, byKey: map[string][]write{}, deletes: map[string]map[int64]bool{}}
	var violations []Violation
	add := func(n write) {
		have, ok := w.byRevision[n.revision]
		if ok && have != n {
			violations = append(violations, Violation{Key: n.key, What: fmt.Sprintf("revision %d is %+v and %+v", n.revision, have, n)})
			return
		}
		w.byRevision[n.revision] = n
	}
	for _, o := range h.Operations {
		switch {
		case o.Kind == Delete && (o.Outcome == OK || o.Outcome == Unknown):
			if w.deletes[o.Key] == nil {
				w.deletes[o.Key] = map[int64]bool{}
			}
			w.deletes[o.Key][o.Precondition] = true
		case o.Outcome == OK && o.Kind != List:
			add(write{revision: o.Revision, key: o.Key, value: o.Value})
		}
		for _, item := range o.Items {
			add(write{revision: item.Revision, key: item.Key, value: item.Value})
		}
	}
	for _, s := range h.Streams {
		for _, e := range s.Events {
			n := write{revision: e.Revision, key: e.Key, value: e.Value, deleted: e.Type == "DELETED"}
			if n.deleted {
				n.value = ""
			}
			add(n)
		}
	}
	for _, n := range w.byRevision {
		w.sorted = append(w.sorted, n)
	}
	slices.SortFunc(w.sorted, func(a, b write) int { return int(a.revision - b.revision) })
	for _, n := range w.sorted {
		w.byKey[n.key] = append(w.byKey[n.key], n)
	}
	return w, violations
}

// checkTime holds that what began after an answer has a higher revision than
// the answer told, and that a list is not older than any answer before it.
func (w writes) checkTime(h History) []Violation {
	byReturn := slices.Clone(h.Operations)
	slices.SortFunc(byReturn, func(a, b Operation) int { return int(a.Return - b.Return) })
	byCall := slices.Clone(h.Operations)
	slices.SortFunc(byCall, func(a, b Operation) int { return int(a.Call - b.Call) })
	var (
		violations []Violation
		floor      int64
		next       int
	)
	for _, o := range byCall {
		for ; next < len(byReturn) && byReturn[next].Return < o.Call; next++ {
			if byReturn[next].Outcome == OK {
				floor = max(floor, byReturn[next].Revision)
			}
		}
		switch {
		case o.Outcome != OK:
		case (o.Kind == Create || o.Kind == Update) && o.Revision <= floor:
			violations = append(violations, Violation{Key: o.Key, What: fmt.Sprintf("%s of %s at %v made revision %d, when %d was told before", o.Kind, o.Key, o.Call, o.Revision, floor)})
		case o.Kind == List && o.Revision < floor:
			violations = append(violations, Violation{What: fmt.Sprintf("list at %v is of revision %d, when %d was told before", o.Call, o.Revision, floor)})
		}
	}
	return violations
}

// checkLists holds that a list is what was at its revision.
func (w writes) checkLists(h History) []Violation {
	var violations []Violation
	for _, o := range h.Operations {
		if o.Kind != List || o.Outcome != OK {
			continue
		}
		items := map[string]int64{}
		for _, item := range o.Items {
			items[item.Key] = item.Revision
		}
		for key := range w.byKey {
			if !strings.HasPrefix(key, o.Key) {
				continue
			}
			was, ok := w.at(key, o.Revision)
			have, there := items[key]
			switch {
			case there && (!ok || was.deleted || was.revision != have):
				violations = append(violations, Violation{Key: key, What: fmt.Sprintf("list of revision %d has %s@%d, which was %+v", o.Revision, key, have, was)})
			case !there && ok && !was.deleted && !w.deletes[key][was.revision]:
				violations = append(violations, Violation{Key: key, What: fmt.Sprintf("list of revision %d lacks %s@%d, which nobody deleted", o.Revision, key, was.revision)})
			}
		}
	}
	return violations
}

// at is the last known write of an object up to a revision.
func (w writes) at(key string, revision int64) (write, bool) {
	all := w.byKey[key]
	i := sort.Search(len(all), func(i int) bool { return all[i].revision > revision })
	if i == 0 {
		return write{}, false
	}
	return all[i-1], true
}

// checkStream holds that a watch delivered every write that anybody saw, once
// and in order, and called it what it was.
func (w writes) checkStream(s Stream) []Violation {
	var violations []Violation
	wrong := func(key, format string, args ...any) {
		violations = append(violations, Violation{Key: key, What: "watch " + s.Watcher + ": " + fmt.Sprintf(format, args...)})
	}
	last, delivered := s.From, map[int64]bool{}
	exists := map[string]bool{} // of objects that the stream has told of
	for _, e := range s.Events {
		if e.Revision <= last {
			wrong(e.Key, "revision %d of %s came after %d", e.Revision, e.Key, last)
		}
		last, delivered[e.Revision] = max(last, e.Revision), true
		if was, told := exists[e.Key]; told && was == (e.Type == "ADDED") {
			wrong(e.Key, "%s of %s@%d, which was there: %t", e.Type, e.Key, e.Revision, was)
		}
		exists[e.Key] = e.Type != "DELETED"
	}
	until := max(last, s.Until)
	for _, n := range w.sorted {
		if n.revision > s.From && n.revision <= until && !delivered[n.revision] {
			wrong(n.key, "revision %d of %s was left out between %d and %d", n.revision, n.key, s.From, until)
		}
	}
	return violations
}

// Gaps are the spells in which no write succeeded, the longest first.
func Gaps(h History) []Gap {
	var ends []time.Duration
	for _, o := range h.Operations {
		if o.writes() && o.Outcome == OK {
			ends = append(ends, o.Return)
		}
	}
	slices.Sort(ends)
	var gaps []Gap
	for i := 1; i < len(ends); i++ {
		gaps = append(gaps, Gap{From: ends[i-1], To: ends[i]})
	}
	slices.SortStableFunc(gaps, func(a, b Gap) int { return int(b.Length() - a.Length()) })
	return gaps
}

// Gap is a spell.
type Gap struct{ From, To time.Duration }

// Length of it.
func (g Gap) Length() time.Duration { return g.To - g.From }
