// Package report is what the guest tells the host: findings, one JSON object a
// line, and the page that is made of them.
package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Finding is one line of the guest.
type Finding struct {
	// Check is what was looked at, as a sentence; Fact names a value that is
	// only told. Evidence is a command that was asked about the failed check
	// before it. Last ends the findings. One of them is set.
	Check    string `json:"check,omitempty"`
	Fact     string `json:"fact,omitempty"`
	Evidence string `json:"evidence,omitempty"`
	Last     bool   `json:"last,omitempty"`
	// Boot counts the guest's boots from 1.
	Boot int `json:"boot"`
	// Error says why a check failed; empty: it holds.
	Error string `json:"error,omitempty"`
	// Value is the fact's, what a check saw, or what the command printed.
	Value string `json:"value,omitempty"`
	// Seconds that a check took, in the guest's clock.
	Seconds float64 `json:"seconds,omitempty"`
}

// String is the finding for somebody who watches.
func (f Finding) String() string {
	switch {
	case f.Last:
		return "the guest is done"
	case f.Evidence != "":
		return fmt.Sprintf("      %d lines of evidence: %s", strings.Count(f.Value, "\n"), f.Evidence)
	case f.Fact != "":
		return fmt.Sprintf("      %s: %s", f.Fact, f.Value)
	case f.Error != "":
		return fmt.Sprintf("FAIL  %s (%.0f s): %s", f.Check, f.Seconds, f.Error)
	case f.Value != "":
		return fmt.Sprintf("ok    %s (%.0f s): %s", f.Check, f.Seconds, f.Value)
	default:
		return fmt.Sprintf("ok    %s (%.0f s)", f.Check, f.Seconds)
	}
}

// Run is all that one guest found.
type Run struct {
	Findings []Finding
}

// longest is what a line may have: a command's output is one.
const longest = 64 << 20

// Read reads a serial port's file; what the console's firmware may have left
// between lines is no JSON and is skipped.
func Read(r io.Reader) (Run, error) {
	var run Run
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, longest)
	for lines.Scan() {
		if f, ok := Parse(lines.Text()); ok {
			run.Findings = append(run.Findings, f)
		}
	}
	if err := lines.Err(); err != nil {
		return run, fmt.Errorf("read findings: %w", err)
	}
	return run, nil
}

// Parse reads one line.
func Parse(line string) (Finding, bool) {
	var f Finding
	err := json.Unmarshal([]byte(strings.TrimSpace(line)), &f)
	return f, err == nil && (f.Check != "" || f.Fact != "" || f.Evidence != "" || f.Last)
}

// Fact is the value of the last fact of that name.
func (r Run) Fact(name string) string {
	value := ""
	for _, f := range r.Findings {
		if f.Fact == name {
			value = f.Value
		}
	}
	return value
}

// Err says what is wrong with a run; nil: every check holds and the guest came
// to its end.
func (r Run) Err() error {
	var failed []string
	checks, last := 0, false
	for _, f := range r.Findings {
		if f.Check != "" {
			checks++
		}
		if f.Error != "" {
			failed = append(failed, f.Check)
		}
		last = last || f.Last
	}
	switch {
	case len(failed) > 0:
		return fmt.Errorf("%d of %d checks failed: %s", len(failed), checks, strings.Join(failed, "; "))
	case !last:
		return fmt.Errorf("the guest did not come to its end after %d checks", checks)
	case checks == 0:
		return fmt.Errorf("the guest checked nothing")
	}
	return nil
}

// Evidence is what was asked about checks that failed, for somebody who wants
// to know why; empty: none failed.
func (r Run) Evidence() string {
	var b strings.Builder
	for _, f := range r.Findings {
		switch {
		case f.Error != "":
			fmt.Fprintf(&b, "#### boot %d: %s: %s\n\n", f.Boot, f.Check, f.Error)
		case f.Evidence != "":
			fmt.Fprintf(&b, "== %s\n%s\n", f.Evidence, f.Value)
		}
	}
	return b.String()
}

// boots are the headings of a guest's boots.
var boots = map[int]string{1: "First boot", 2: "After `systemctl reboot`", 3: "After a power cut"}

// Write makes the page of several runs.
func Write(w io.Writer, runs []Run, now time.Time) error {
	var b strings.Builder
	b.WriteString("# Debian in an emulated machine\n\n")
	b.WriteString("Written by `make test-vm`, " + now.UTC().Format(time.DateOnly) + ". Debian's own kernel packages on a root file\n" +
		"system made by debootstrap: systemd, pure cgroup2, no network device. qemu's\n" +
		"software emulation of two cores and 4 GB, beside other work on the same two\n" +
		"cores, so times say only that slowness is survived. A cluster of a control\n" +
		"plane and a worker, `restart: always`.\n\n")
	b.WriteString("| | " + join(runs, func(r Run) string { return r.Fact("kernel") }) + " |\n|---|" + strings.Repeat("---|", len(runs)) + "\n")
	b.WriteString("| verdict | " + join(runs, verdict) + " |\n")
	for _, fact := range []string{"kernel package", "distribution", "systemd", "skiff", "qemu", "host kernel"} {
		b.WriteString("| " + fact + " | " + join(runs, func(r Run) string { return r.Fact(fact) }) + " |\n")
	}
	for boot := 1; boot <= len(boots); boot++ {
		names := checksOf(runs, boot)
		if len(names) == 0 {
			continue
		}
		b.WriteString("\n## " + boots[boot] + "\n\n| check | " + join(runs, func(r Run) string { return r.Fact("kernel") }) + " |\n|---|" + strings.Repeat("---|", len(runs)) + "\n")
		for _, name := range names {
			b.WriteString("| " + name + " | " + join(runs, func(r Run) string { return r.cell(boot, name) }) + " |\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func verdict(r Run) string {
	if err := r.Err(); err != nil {
		return "**" + escape(err.Error()) + "**"
	}
	return "passes"
}

// cell is what a run found out about one check.
func (r Run) cell(boot int, check string) string {
	for _, f := range r.Findings {
		switch {
		case f.Boot != boot || f.Check != check:
		case f.Error != "":
			return "**fails**: " + escape(f.Error)
		case f.Value != "":
			return fmt.Sprintf("ok, %.0f s: %s", f.Seconds, escape(f.Value))
		default:
			return fmt.Sprintf("ok, %.0f s", f.Seconds)
		}
	}
	return "–"
}

// checksOf lists the checks of a boot in the order they were made.
func checksOf(runs []Run, boot int) []string {
	var names []string
	seen := map[string]bool{}
	for _, r := range runs {
		for _, f := range r.Findings {
			if f.Check != "" && f.Boot == boot && !seen[f.Check] {
				seen[f.Check] = true
				names = append(names, f.Check)
			}
		}
	}
	return names
}

func join(runs []Run, of func(Run) string) string {
	cells := make([]string, 0, len(runs))
	for _, r := range runs {
		cells = append(cells, of(r))
	}
	return strings.Join(cells, " | ")
}

// escape makes text fit into one cell of a table.
func escape(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	s = strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(s)
	if r := []rune(s); len(r) > 400 {
		s = string(r[:400]) + " …"
	}
	return s
}
