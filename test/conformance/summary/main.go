// Command summary reads the JUnit files of a run of upstream's e2e suite and
// writes what passed and failed per SIG. It exits with 1 when a spec failed
// or none ran.
package main

import (
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strings"
)

type report struct {
	Suites []struct {
		Cases []testcase `xml:"testcase"`
	} `xml:"testsuite"`
}

type testcase struct {
	Name    string  `xml:"name,attr"`
	Status  string  `xml:"status,attr"`
	Seconds float64 `xml:"time,attr"`
	Failure *struct {
		Message string `xml:"message,attr"`
	} `xml:"failure"`
}

type tally struct {
	passed, failed int
	seconds        float64
}

var sigName = regexp.MustCompile(`\[(sig-[a-z-]+)\]`)

func main() {
	out := flag.String("o", "", "Markdown file to write beside the output")
	flag.Parse()
	passed, failed, text, err := summarize(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
	fmt.Print(text)
	if *out != "" {
		if err := os.WriteFile(*out, []byte(text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "Error:", err)
			os.Exit(1)
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 || passed == 0 {
		os.Exit(1)
	}
}

func summarize(paths []string) (passed, failed int, text string, err error) {
	sigs := map[string]*tally{}
	var failures []testcase
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return 0, 0, "", err
		}
		var r report
		if err := xml.Unmarshal(data, &r); err != nil {
			return 0, 0, "", fmt.Errorf("%s: %w", p, err)
		}
		for _, s := range r.Suites {
			for _, c := range s.Cases {
				if c.Status == "skipped" || c.Status == "pending" || !strings.HasPrefix(c.Name, "[It]") {
					continue
				}
				sig := "other"
				if m := sigName.FindStringSubmatch(c.Name); m != nil {
					sig = m[1]
				}
				if sigs[sig] == nil {
					sigs[sig] = &tally{}
				}
				sigs[sig].seconds += c.Seconds
				if c.Status == "passed" {
					passed++
					sigs[sig].passed++
				} else {
					failed++
					sigs[sig].failed++
					failures = append(failures, c)
				}
			}
		}
	}
	return passed, failed, render(sigs, failures), nil
}

func render(sigs map[string]*tally, failures []testcase) string {
	var b strings.Builder
	names := make([]string, 0, len(sigs))
	for n := range sigs {
		names = append(names, n)
	}
	sort.Strings(names)
	fmt.Fprintf(&b, "| SIG | passed | failed | seconds |\n|---|---|---|---|\n")
	for _, n := range names {
		t := sigs[n]
		fmt.Fprintf(&b, "| %s | %d | %d | %.0f |\n", n, t.passed, t.failed, t.seconds)
	}
	sort.Slice(failures, func(i, j int) bool { return failures[i].Name < failures[j].Name })
	for _, c := range failures {
		fmt.Fprintf(&b, "\n- %s (%s)", strings.TrimPrefix(c.Name, "[It] "), c.Status)
		if c.Failure != nil && c.Failure.Message != "" {
			fmt.Fprintf(&b, ": %s", firstLine(c.Failure.Message))
		}
	}
	if len(failures) > 0 {
		b.WriteString("\n")
	}
	return b.String()
}

func firstLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		s = s[:i]
	}
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}
