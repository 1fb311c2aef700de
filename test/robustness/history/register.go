package history

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// register is the state of one object.
type register struct {
	exists bool
	value  string
	// revision is the object's, or, unless known, one that it is above.
	revision int64
	known    bool
}

// has says whether the object may have a revision.
func (r register) has(revision int64) bool {
	if !r.exists {
		return false
	}
	if r.known {
		return r.revision == revision
	}
	return revision > r.revision
}

// next are the states that an operation may leave; none: it cannot have had
// that outcome.
//
//	absent → (create) → exists → (update) → exists → (delete) → absent …
func (r register) next(o Operation) []register {
	same := []register{r}
	gone := register{revision: max(r.revision, o.Precondition)}
	switch o.Outcome {
	case Rejected:
		return same
	case Absent:
		if !r.exists {
			return same
		}
	case Exists:
		if r.exists {
			return same
		}
	case Conflict:
		if r.exists && (!r.known || r.revision != o.Precondition) {
			return same
		}
	case Unknown:
		switch {
		case o.Kind == Create && !r.exists:
			return append(same, register{exists: true, value: o.Value, revision: r.revision})
		case o.Kind == Update && r.has(o.Precondition):
			return append(same, register{exists: true, value: o.Value, revision: o.Precondition})
		case o.Kind == Delete && r.has(o.Precondition):
			return append(same, gone)
		}
		return same
	case OK:
		written := register{exists: true, value: o.Value, revision: o.Revision, known: true}
		switch {
		case o.Kind == Get && r.has(o.Revision) && r.value == o.Value,
			o.Kind == Create && !r.exists && o.Revision > r.revision,
			o.Kind == Update && r.has(o.Precondition) && o.Revision > o.Precondition:
			return []register{written}
		case o.Kind == Delete && r.has(o.Precondition):
			return []register{gone}
		}
	}
	return nil
}

func (r register) String() string {
	switch {
	case !r.exists:
		return "absent"
	case r.known:
		return fmt.Sprintf("%s@%d", r.value, r.revision)
	}
	return fmt.Sprintf("%s@>%d", r.value, r.revision)
}

// model is the register as porcupine takes it.
func model() porcupine.Model {
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []any { return []any{register{}} },
		Step: func(state, input, _ any) []any {
			var all []any
			for _, s := range state.(register).next(input.(Operation)) {
				all = append(all, s)
			}
			return all
		},
		Equal: func(a, b any) bool { return a == b },
		DescribeOperation: func(input, _ any) string {
			o := input.(Operation)
			return fmt.Sprintf("%s %s if %d → %s @%d", o.Kind, o.Value, o.Precondition, o.Outcome, o.Revision)
		},
		DescribeState: func(state any) string { return state.(register).String() },
	}
	return nondeterministic.ToModel()
}
