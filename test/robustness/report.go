package robustness

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/test/robustness/history"
)

// Happened is a step of a plan that was done.
type Happened struct {
	Step
	// At is when it began, Undone when it was over, and Recovered when writes
	// had succeeded and all nodes were Ready after that; times of the run.
	At, Undone, Recovered time.Duration
	Err                   error
}

// Account of a run, which a report has.
type Account struct {
	Topology
	Seed       uint64
	Durability string
	Machine    string
	Duration   time.Duration
	Steps      []Happened
	History    history.History
	// Told are the errors that clients were told, and how often.
	Told map[string]int
	// Records are those acknowledged by journals, Unanswered those that may
	// be there.
	Journals, Records, Unanswered int
	// Resumed is how often a watch went on where another had ended.
	Resumed int
	// Others are the other specs of the run, with what came of each.
	Others     []string
	Violations []string
}

// reportHead begins a report.
const reportHead = `# Robustness

Written by ` + "`make robustness`" + `: the last run of each kind of cluster.
`

// title of an account, by which the next one of its kind replaces it.
func (r *Account) title() string {
	return fmt.Sprintf("### Control planes: %d, workers: %d, durability %s", r.ControlPlanes, r.Workers, r.Durability)
}

// Merge puts an account into a report, in the place of one of its kind.
func Merge(report string, r *Account) string {
	_, rest, _ := strings.Cut(report, "\n### ")
	out := reportHead
	for _, section := range strings.Split(rest, "\n### ") {
		section = "### " + section
		if section != "### " && !strings.HasPrefix(section, r.title()+"\n") {
			out += "\n" + strings.TrimRight(section, "\n") + "\n"
		}
	}
	return out + "\n" + r.String()
}

// String is it as Markdown.
func (r *Account) String() string {
	var b strings.Builder
	verdict := "**nothing acknowledged was lost, and nothing seen that cannot have happened.**"
	if len(r.Violations) > 0 {
		verdict = fmt.Sprintf("**%d violations.**", len(r.Violations))
	}
	fmt.Fprintf(&b, "%s\n\n%v. Verdict: %s\n\n", r.title(), r.Duration.Round(time.Second), verdict)
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "- %s\n", v)
	}
	if len(r.Violations) > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "Seed %d. %s\n\n", r.Seed, r.Machine)
	r.writeOperations(&b)
	r.writeFaults(&b)
	if len(r.Others) > 0 {
		b.WriteString("\nAnd on clusters of their own:\n\n")
		for _, o := range r.Others {
			fmt.Fprintf(&b, "- %s\n", o)
		}
	}
	return b.String()
}

func (r *Account) writeOperations(b *strings.Builder) {
	count := map[history.Kind]map[history.Outcome]int{}
	total := 0
	for _, o := range r.History.Operations {
		if count[o.Kind] == nil {
			count[o.Kind] = map[history.Outcome]int{}
		}
		count[o.Kind][o.Outcome]++
		total++
	}
	fmt.Fprintf(b, "%d operations of clients:\n\n| | ok | absent | exists | conflict | unknown | rejected |\n|---|---|---|---|---|---|---|\n", total)
	for _, kind := range []history.Kind{history.Create, history.Update, history.Delete, history.Get, history.List} {
		fmt.Fprintf(b, "| %s ", kind)
		for _, outcome := range []history.Outcome{history.OK, history.Absent, history.Exists, history.Conflict, history.Unknown, history.Rejected} {
			fmt.Fprintf(b, "| %d ", count[kind][outcome])
		}
		b.WriteString("|\n")
	}
	events, watchers := 0, map[string]bool{}
	for _, s := range r.History.Streams {
		events += len(s.Events)
		watchers[s.Watcher] = true
	}
	fmt.Fprintf(b, "\nErrors that they were told: %s. %d watches delivered %d events, were resumed %d times and began anew with a list %d times, when the server had forgotten their revision. %d journals in volumes acknowledged %d records, and %d got no answer.\n\n",
		tally(r.Told), len(watchers), events, r.Resumed, len(r.History.Streams)-len(watchers), r.Journals, r.Records, r.Unanswered)
}

func tally(count map[string]int) string {
	var all []string
	for what, n := range count {
		all = append(all, fmt.Sprintf("%s %d", what, n))
	}
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// writeFaults has a line for each kind of fault: how often, the longest spell
// without a write from its begin to the recovery, and how long the cluster
// took to recover once it was over.
func (r *Account) writeFaults(b *strings.Builder) {
	type sum struct {
		count       int
		unavailable time.Duration
		recoveries  []time.Duration
	}
	sums := map[string]*sum{}
	gaps := history.Gaps(r.History)
	for _, h := range r.Steps {
		s := sums[h.Fault]
		if s == nil {
			s = &sum{}
			sums[h.Fault] = s
		}
		s.count++
		s.recoveries = append(s.recoveries, h.Recovered-h.Undone)
		for _, g := range gaps {
			if g.To > h.At && g.From < h.Recovered {
				s.unavailable = max(s.unavailable, g.Length())
			}
		}
	}
	fmt.Fprintf(b, "%d faults. A fault that lasts is undone after a while; recovered means that writes succeed, all nodes are Ready and all journals are written.\n\n", len(r.Steps))
	b.WriteString("| fault | n | longest without a write, s | recovered after, median (most), s |\n|---|---|---|---|\n")
	var kinds []string
	for kind := range sums {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		s := sums[kind]
		slices.Sort(s.recoveries)
		fmt.Fprintf(b, "| %s | %d | %.2f | %.2f (%.2f) |\n", kind, s.count, s.unavailable.Seconds(), s.recoveries[len(s.recoveries)/2].Seconds(), s.recoveries[len(s.recoveries)-1].Seconds())
	}
	if len(gaps) > 0 {
		fmt.Fprintf(b, "\nThe longest spell without a successful write was %.2f s.\n", gaps[0].Length().Seconds())
	}
}
