package report

import (
	"strings"
	"testing"
	"time"
)

const serial = "\x00garbage of the firmware\n" +
	`{"fact":"kernel","value":"6.1.0-56-cloud-amd64","boot":1}` + "\n" +
	`{"check":"a cluster is made","boot":1,"seconds":80.2}` + "\n" +
	`{"check":"it is the same one","boot":2,"seconds":9.6,"value":"up bye | up"}` + "\n"

func TestRunsAreJudged(t *testing.T) {
	for name, c := range map[string]struct{ more, err string }{
		"a guest that came to its end passes":  {`{"last":true,"boot":3}`, ""},
		"a guest that hangs fails":             {"", "did not come to its end after 2 checks"},
		"a check that fails is named":          {`{"check":"bad","error":"why","boot":3}` + "\n" + `{"last":true,"boot":3}`, "1 of 3 checks failed: bad"},
		"a line that was cut is no finding":    {`{"check":"bad","err`, "did not come to its end after 2 checks"},
		"other JSON on the port is no finding": {`{"level":"info"}` + "\n" + `{"last":true,"boot":3}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			run, err := Read(strings.NewReader(serial + c.more + "\n"))
			if err != nil {
				t.Fatal(err)
			}
			switch err := run.Err(); {
			case c.err == "" && err != nil, c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("have %v, want %q", err, c.err)
			}
		})
	}
	if (Run{Findings: []Finding{{Last: true}}}).Err() == nil {
		t.Error("a guest that checked nothing passes")
	}
}

func TestThePageHasEveryCheckOfEveryRun(t *testing.T) {
	one, err := Read(strings.NewReader(serial))
	if err != nil {
		t.Fatal(err)
	}
	two := Run{Findings: []Finding{{Fact: "kernel", Value: "6.12"}, {Check: "policies are enforced", Boot: 1, Error: "no <links>"}}}
	var page strings.Builder
	if err := Write(&page, []Run{one, two}, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| check | 6.1.0-56-cloud-amd64 | 6.12 |",
		"| a cluster is made | ok, 80 s | – |",
		"| policies are enforced | – | **fails**: no &lt;links> |",
		`| it is the same one | ok, 10 s: up bye \| up | – |`,
	} {
		if !strings.Contains(page.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, page.String())
		}
	}
}

func TestEvidenceIsToldOfWhatFailed(t *testing.T) {
	long := strings.Repeat("an event; ", 1<<14)
	run, err := Read(strings.NewReader(serial + `{"check":"bad","error":"why","boot":2}` + "\n" +
		`{"evidence":"kubectl get events","value":"` + long + `","boot":2}` + "\n" + `{"last":true,"boot":2}` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want, have := "#### boot 2: bad: why\n\n== kubectl get events\n"+long+"\n", run.Evidence(); have != want {
		t.Errorf("%d bytes, want %d: %.100s", len(have), len(want), have)
	}
	if err := run.Err(); err == nil || !strings.Contains(err.Error(), "1 of 3 checks failed: bad") {
		t.Errorf("evidence is taken for a check: %v", err)
	}
}
