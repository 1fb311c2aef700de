package history

import (
	"strings"
	"testing"
	"time"
)

// op at a moment takes one unit of time.
func op(kind Kind, key string, call int, outcome Outcome, value string, precondition, revision int64) Operation {
	return Operation{Kind: kind, Key: key, Call: time.Duration(call), Return: time.Duration(call) + 1,
		Outcome: outcome, Value: value, Precondition: precondition, Revision: revision}
}

func list(call int, revision int64, items ...Item) Operation {
	return Operation{Kind: List, Call: time.Duration(call), Return: time.Duration(call) + 1, Outcome: OK, Revision: revision, Items: items}
}

func watched(from, until int64, events ...Event) Stream {
	return Stream{Watcher: "w", From: from, Until: until, Events: events}
}

func TestCheck(t *testing.T) {
	created := op(Create, "a", 0, OK, "v1", 0, 1)
	added := Event{Type: "ADDED", Key: "a", Value: "v1", Revision: 1, At: 1}
	modified := Event{Type: "MODIFIED", Key: "a", Value: "v2", Revision: 2, At: 5}
	tests := []struct {
		name string
		h    History
		want string // in one violation; empty: none
	}{
		{"a life", History{Operations: []Operation{
			op(Get, "a", -10, Absent, "", 0, 0), created, op(Create, "a", 10, Exists, "v2", 0, 0), op(Update, "a", 20, OK, "v3", 1, 3),
			op(Update, "a", 30, Conflict, "v4", 1, 0), list(40, 3, Item{"a", "v3", 3}), op(Delete, "a", 50, Conflict, "", 1, 0),
			op(Delete, "a", 60, OK, "", 3, 0), op(Delete, "a", 70, Absent, "", 3, 0), op(Create, "a", 80, OK, "v5", 0, 9), op(Get, "a", 90, OK, "v5", 0, 9),
		}}, ""},
		{"a stale read", History{Operations: []Operation{created, op(Update, "a", 10, OK, "v2", 1, 2), op(Get, "a", 20, OK, "v1", 0, 1)}}, "not linearizable"},
		{"a lost write", History{Operations: []Operation{created, list(10, 5)}}, "lacks a@1"},
		{"a lost create, by Get", History{Operations: []Operation{created, op(Get, "a", 10, Absent, "", 0, 0)}}, "not linearizable"},
		{"an update of another's update", History{Operations: []Operation{created, op(Update, "a", 10, OK, "v2", 1, 2), op(Update, "a", 20, OK, "v3", 1, 3)}}, "not linearizable"},
		{"a conflict with nothing", History{Operations: []Operation{created, op(Update, "a", 10, Conflict, "v2", 1, 0)}}, "not linearizable"},
		{"an answer that was lost, and the write done", History{Operations: []Operation{
			created, op(Update, "a", 10, Unknown, "v2", 1, 0), op(Get, "a", 20, OK, "v1", 0, 1), op(Get, "a", 900, OK, "v2", 0, 2)}}, ""},
		{"an answer that was lost, and the write not done", History{Operations: []Operation{
			created, op(Update, "a", 10, Unknown, "v2", 1, 0), op(Update, "a", 20, OK, "v3", 1, 2), op(Get, "a", 30, OK, "v3", 0, 2)}}, ""},
		{"an answer that was lost, and the write undone", History{Operations: []Operation{
			created, op(Update, "a", 10, Unknown, "v2", 1, 0), op(Get, "a", 20, OK, "v2", 0, 2), op(Get, "a", 30, OK, "v1", 0, 1)}}, "not linearizable"},
		{"a delete whose answer was lost, done late", History{Operations: []Operation{
			created, op(Delete, "a", 10, Unknown, "", 1, 0), op(Get, "a", 20, OK, "v1", 0, 1), op(Get, "a", 30, Absent, "", 0, 0)}}, ""},
		{"a delete whose answer was lost takes no other revision", History{Operations: []Operation{
			created, op(Delete, "a", 10, Unknown, "", 1, 0), op(Update, "a", 20, OK, "v2", 1, 2), op(Get, "a", 30, Absent, "", 0, 0)}}, "not linearizable"},
		{"a create whose answer was lost, and another's that found it", History{Operations: []Operation{
			op(Create, "a", 0, Unknown, "v1", 0, 0), op(Create, "a", 10, Exists, "v2", 0, 0), op(Get, "a", 20, OK, "v1", 0, 4)}}, ""},
		{"a revision that is lower than one told before", History{Operations: []Operation{op(Create, "a", 0, OK, "v1", 0, 7), op(Create, "b", 10, OK, "w1", 0, 5)}}, "when 7 was told before"},
		{"a revision of two writes", History{Operations: []Operation{created, op(Create, "b", 0, OK, "w1", 0, 1)}}, "revision 1 is"},
		{"a list that is older than an answer", History{Operations: []Operation{op(Create, "a", 0, OK, "v1", 0, 7), list(10, 6)}}, "list at 10ns is of revision 6"},
		{"a list that mixes two moments", History{Operations: []Operation{
			created, op(Create, "b", 2, OK, "w1", 0, 2), {Kind: Update, Key: "a", Call: 10, Return: 30, Outcome: OK, Value: "v2", Precondition: 1, Revision: 3},
			list(11, 3, Item{"a", "v1", 1}, Item{"b", "w1", 2})}}, "list of revision 3 has a@1"},
		{"a watch", History{Operations: []Operation{created, op(Update, "a", 4, OK, "v2", 1, 2)}, Streams: []Stream{watched(0, 2, added, modified)}}, ""},
		{"a watch with a gap", History{Operations: []Operation{created, op(Update, "a", 4, OK, "v2", 1, 2)}, Streams: []Stream{watched(0, 2, modified)}}, "revision 1 of a was left out"},
		{"a watch that ends early", History{Operations: []Operation{created, op(Update, "a", 4, OK, "v2", 1, 2)}, Streams: []Stream{watched(0, 0, added)}}, ""},
		{"a watch that vouches for more than it delivered", History{Operations: []Operation{created, op(Update, "a", 4, OK, "v2", 1, 2)}, Streams: []Stream{watched(0, 3, added)}}, "revision 2 of a was left out"},
		{"an event twice", History{Operations: []Operation{created}, Streams: []Stream{watched(0, 0, added, added)}}, "came after 1"},
		{"events out of order", History{Operations: []Operation{created, op(Update, "a", 4, OK, "v2", 1, 2)}, Streams: []Stream{watched(0, 0, modified, added)}}, "came after 2"},
		{"an event of something else", History{Operations: []Operation{created}, Streams: []Stream{watched(0, 0, Event{Type: "ADDED", Key: "a", Value: "x", Revision: 1})}}, "revision 1 is"},
		{"an object added twice", History{Streams: []Stream{watched(0, 0, added, Event{Type: "ADDED", Key: "a", Value: "v2", Revision: 2})}}, "ADDED of a@2"},
		{"an event that only one of two watches has", History{Streams: []Stream{watched(0, 2, added, modified), watched(0, 2, added)}}, "revision 2 of a was left out"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			violations := Check(tt.h)
			var all []string
			for _, v := range violations {
				all = append(all, v.Error())
			}
			got := strings.Join(all, "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("have %q, want %q", got, tt.want)
			}
		})
	}
}

func TestManyUnknownsAreNoTrouble(t *testing.T) {
	// Fifty clients whose answers are lost, ten times, and somebody who reads.
	var h History
	revision, value := int64(1), "v"
	h.Operations = append(h.Operations, op(Create, "a", 0, OK, value, 0, revision))
	for round := range 10 {
		at := 10 + 1000*round
		for i := range 50 {
			kind := []Kind{Update, Delete}[i%2]
			h.Operations = append(h.Operations, op(kind, "a", at+i, Unknown, value+string(rune('A'+i)), revision, 0))
		}
		value, revision = value+"A", revision+1
		h.Operations = append(h.Operations, op(Get, "a", at+500, OK, value, 0, revision))
	}
	if violations := Check(h); len(violations) > 0 {
		t.Error(violations)
	}
}

func TestGaps(t *testing.T) {
	h := History{Operations: []Operation{op(Create, "a", 0, OK, "v", 0, 1), op(Create, "b", 5, OK, "v", 0, 2), op(Get, "a", 7, OK, "v", 0, 1), op(Update, "a", 99, OK, "w", 1, 3)}}
	if gaps := Gaps(h); len(gaps) != 2 || gaps[0] != (Gap{From: 6, To: 100}) {
		t.Errorf("have %v", gaps)
	}
}
