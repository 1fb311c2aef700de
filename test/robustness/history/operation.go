package history

import "time"

// Kind of an operation.
type Kind string

// The operations on one object, and List on all whose keys have a prefix.
const (
	Create Kind = "create"
	Update Kind = "update"
	Delete Kind = "delete"
	Get    Kind = "get"
	List   Kind = "list"
)

// Outcome is what the client was told.
type Outcome string

const (
	// OK says: it was done.
	OK Outcome = "ok"
	// Absent says: there was no such object.
	Absent Outcome = "absent"
	// Exists says: there was one already.
	Exists Outcome = "exists"
	// Conflict says: the object had another revision than the precondition's.
	Conflict Outcome = "conflict"
	// Unknown says: no answer, or one that leaves open whether it was done.
	Unknown Outcome = "unknown"
	// Rejected says: it was not done, for a reason that says nothing about the
	// object.
	Rejected Outcome = "rejected"
)

// Operation of a client.
type Operation struct {
	Client int
	Kind   Kind
	// Key of the object; the prefix of a List's.
	Key string
	// Call and Return are times since the run began.
	Call, Return time.Duration
	// Precondition is the revision that an Update or Delete demands.
	Precondition int64
	// Value that is written, or was read. No two writes have the same.
	Value   string
	Outcome Outcome
	// Revision that a write made, a Get found, or a List is of. A Delete's is
	// not told.
	Revision int64
	// Items of a List.
	Items []Item
}

// Item of a List.
type Item struct {
	Key, Value string
	Revision   int64
}

func (o Operation) writes() bool { return o.Kind == Create || o.Kind == Update || o.Kind == Delete }

// Event that a watch delivered.
type Event struct {
	// Type is ADDED, MODIFIED or DELETED.
	Type       string
	Key, Value string
	Revision   int64
	At         time.Duration
}

// Stream is what one watch delivered from revision From, which it does not
// include, through all its resumptions. A watch whose revision is no longer
// known to the server begins a new Stream.
type Stream struct {
	Watcher string
	From    int64
	Events  []Event
	// Until is the last revision that the server vouched for.
	Until int64
}

// History of a run.
type History struct {
	Operations []Operation
	Streams    []Stream
}
