package history

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// objectBound is how long the search may take for one object: a thousand
// times what the longest took.
const objectBound = time.Minute

// Violation is something that cannot have happened.
type Violation struct {
	// What in one sentence, and the object that it is about, if one.
	What, Key string
	// Picture is HTML to look at, if there is any.
	Picture func(path string) error
}

func (v Violation) Error() string { return v.What }

// Check returns what is wrong with a history.
func Check(h History) []Violation {
	w, violations := writesOf(h)
	violations = append(violations, w.checkTime(h)...)
	violations = append(violations, w.checkLists(h)...)
	for _, s := range h.Streams {
		violations = append(violations, w.checkStream(s)...)
	}
	return append(violations, checkObjects(h)...)
}

// checkObjects asks porcupine about each object.
func checkObjects(h History) []Violation {
	var violations []Violation
	objects := perObject(h)
	for _, key := range sortedKeys(objects) {
		operations := bound(objects[key], eventsOf(h, key))
		result, info := porcupine.CheckOperationsVerbose(model(), operations, objectBound)
		picture := func(path string) error { return porcupine.VisualizePath(model(), info, path) }
		switch result {
		case porcupine.Illegal:
			violations = append(violations, Violation{What: fmt.Sprintf("the %d operations on %s are not linearizable", len(operations), key), Key: key, Picture: picture})
		case porcupine.Unknown:
			violations = append(violations, Violation{What: fmt.Sprintf("no verdict about %s after %v", key, objectBound), Key: key, Picture: picture})
		}
	}
	return violations
}

// perObject takes lists apart into a Get of each object.
func perObject(h History) map[string][]Operation {
	objects := map[string][]Operation{}
	for _, o := range h.Operations {
		if o.Kind != List {
			objects[o.Key] = append(objects[o.Key], o)
		}
		for _, item := range o.Items {
			if objects[item.Key] == nil {
				objects[item.Key] = []Operation{}
			}
		}
	}
	for _, o := range h.Operations {
		if o.Kind != List || o.Outcome != OK {
			continue
		}
		items := map[string]Item{}
		for _, item := range o.Items {
			items[item.Key] = item
		}
		for key := range objects {
			if !strings.HasPrefix(key, o.Key) {
				continue
			}
			read := Operation{Client: o.Client, Kind: Get, Key: key, Call: o.Call, Return: o.Return, Outcome: Absent}
			if item, there := items[key]; there {
				read.Outcome, read.Value, read.Revision = OK, item.Value, item.Revision
			}
			objects[key] = append(objects[key], read)
		}
	}
	return objects
}

func eventsOf(h History, key string) []Event {
	var events []Event
	for _, s := range h.Streams {
		for _, e := range s.Events {
			if e.Key == key {
				events = append(events, e)
			}
		}
	}
	return events
}

// bound ends operations of unknown outcome as early as they can have ended,
// without which the search would not end, and leaves out what says nothing.
// A write of a value that somebody saw was done by then; one that nobody ever
// saw, the last list included, need not have been. A Delete did nothing after
// the revision that it demands was gone.
func bound(operations []Operation, events []Event) []porcupine.Operation {
	seen := map[string]time.Duration{}
	note := func(value string, at time.Duration) {
		if first, ok := seen[value]; !ok || at < first {
			seen[value] = at
		}
	}
	for _, o := range operations {
		if o.Kind == Get && o.Outcome == OK {
			note(o.Value, o.Return)
		}
	}
	for _, e := range events {
		note(e.Value, e.At)
	}
	var all []porcupine.Operation
	for _, o := range operations {
		switch {
		case o.Outcome == Rejected, o.Outcome == Unknown && o.Kind == Get:
			continue
		case o.Outcome == Unknown && o.Kind == Delete:
			o.Return = gone(o, operations, events)
		case o.Outcome == Unknown:
			at, ok := seen[o.Value]
			if !ok {
				continue
			}
			// The client may have given up before or after that.
			o.Return = max(at, o.Call)
		}
		all = append(all, porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Call), Output: o.Outcome, Return: int64(o.Return)})
	}
	return all
}

// gone is when somebody first knew that the revision that a Delete demands is
// no more.
func gone(d Operation, operations []Operation, events []Event) time.Duration {
	at := time.Duration(math.MaxInt64)
	for _, o := range operations {
		later := o.Outcome == OK && o.Revision > d.Precondition || o.Outcome == Absent && o.Call >= d.Call
		if later && o.Return >= d.Call {
			at = min(at, o.Return)
		}
	}
	for _, e := range events {
		if e.Revision > d.Precondition && e.At >= d.Call {
			at = min(at, e.At)
		}
	}
	return at
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
