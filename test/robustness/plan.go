package robustness

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Topology of the cluster under test.
type Topology struct{ ControlPlanes, Workers int }

// Fault that a plan may draw.
type Fault struct {
	Name string
	// Weight is how often it is drawn, relative to others.
	Weight int
	// Least and Most bound how long it lasts; both zero: it is over at once.
	Least, Most time.Duration
	// Needs says whether a topology can have it; nil: any can.
	Needs func(Topology) bool
}

// Step of a plan: a fault, where, and for how long.
type Step struct {
	Fault string
	// After is the peace before it.
	After time.Duration
	// Target chooses among what the fault may hit, by its remainder.
	Target int
	Hold   time.Duration
}

func (s Step) String() string {
	if s.Hold == 0 {
		return fmt.Sprintf("%s #%d", s.Fault, s.Target)
	}
	return fmt.Sprintf("%s #%d for %v", s.Fault, s.Target, s.Hold)
}

// leastPeace and mostPeace are between two faults: some are shorter than what
// a node needs to report, some longer.
const (
	leastPeace = 200 * time.Millisecond
	mostPeace  = 3 * time.Second
)

// Plan draws steps from a seed. The same seed, faults and topology give the
// same steps, however long each takes.
type Plan struct {
	random *rand.Rand
	faults []Fault
	total  int
	// due are faults that were not drawn yet, in random order: a short run
	// has as many kinds as it can.
	due []Fault
}

// NewPlan for those of the faults that the topology can have.
func NewPlan(seed uint64, topology Topology, faults []Fault) *Plan {
	p := &Plan{random: rand.New(rand.NewPCG(seed, 0))}
	for _, f := range faults {
		if f.Needs == nil || f.Needs(topology) {
			p.faults = append(p.faults, f)
			p.total += f.Weight
		}
	}
	for _, i := range p.random.Perm(len(p.faults)) {
		p.due = append(p.due, p.faults[i])
	}
	return p
}

// Next step.
func (p *Plan) Next() Step {
	f := p.draw()
	return Step{
		Fault: f.Name, Target: p.random.IntN(100),
		After: p.between(leastPeace, mostPeace), Hold: p.between(f.Least, f.Most),
	}
}

func (p *Plan) draw() Fault {
	if len(p.due) > 0 {
		f := p.due[0]
		p.due = p.due[1:]
		return f
	}
	n := p.random.IntN(p.total)
	for _, f := range p.faults {
		if n -= f.Weight; n < 0 {
			return f
		}
	}
	panic("unreachable: the weights are what total counts")
}

func (p *Plan) between(least, most time.Duration) time.Duration {
	if most <= least {
		return least
	}
	return (least + time.Duration(p.random.Int64N(int64(most-least)))).Round(time.Millisecond)
}
