package pid1

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRotateKeepsEveryLineAndTheWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.log")
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	writer, err := openLog(path) // the service's own descriptor
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()

	steps := []struct {
		write            string
		wantLog, wantOld string
	}{
		{"1234\n", "1234\n", ""},
		{"5678\n", "", "1234\n5678\n"},
		{"9\n", "9\n", "1234\n5678\n"},
		{strings.Repeat("x", 9) + "\n", "", "9\nxxxxxxxxx\n"},
	}
	for _, s := range steps {
		if _, err := writer.WriteString(s.write); err != nil {
			t.Fatal(err)
		}
		if err := rotate(f, 8); err != nil {
			t.Fatal(err)
		}
		log, _ := os.ReadFile(path)
		old, _ := os.ReadFile(path + ".1")
		if string(log) != s.wantLog || string(old) != s.wantOld {
			t.Fatalf("after %q: log %q, old %q; want %q, %q", s.write, log, old, s.wantLog, s.wantOld)
		}
	}
}
