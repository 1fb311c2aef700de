package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAFailedRunLeavesItsEvidence(t *testing.T) {
	const (
		fails = `{"check":"bad","error":"why","boot":1}` + "\n" + `{"evidence":"dmesg","value":"a line\n","boot":1}` + "\n"
		good  = `{"check":"good","boot":1}` + "\n"
		last  = `{"last":true,"boot":1}` + "\n"
	)
	for name, c := range map[string]struct{ findings, err, evidence string }{
		"all is well":              {good + last, "", ""},
		"a check fails":            {fails + last, "1 of 1 checks failed: bad; what the cluster said is in ", "#### boot 1: bad: why\n\n== dmesg\na line\n\n"},
		"a check fails, and hangs": {fails, "1 of 1 checks failed: bad; what the cluster said is in ", "#### boot 1: bad: why\n\n== dmesg\na line\n\n"},
		"the guest only hangs":     {good, "the guest did not come to its end", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := machine{dir: t.TempDir()}
			if err := os.WriteFile(filepath.Join(m.dir, "findings.jsonl"), []byte(c.findings), 0o644); err != nil {
				t.Fatal(err)
			}
			switch err := m.judge(); {
			case (err == nil) != (c.err == ""), err != nil && !strings.Contains(err.Error(), c.err):
				t.Errorf("have %v, want %q", err, c.err)
			}
			evidence, err := os.ReadFile(m.file("evidence.log"))
			if string(evidence) != c.evidence || os.IsNotExist(err) != (c.evidence == "") {
				t.Errorf("evidence %q, %v; want %q", evidence, err, c.evidence)
			}
		})
	}
}
