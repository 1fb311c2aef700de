package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func write(t *testing.T, j *Journal, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := j.Append(id); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAJournalGoesOnAfterItsTornEnd(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "journal")
	j := open(t, dir)
	write(t, j, "a", "b")
	if _, err := Open(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("a second opening: %v", err)
	}
	write(t, j, "c")
	j.Close()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, info.Size()-100); err != nil {
		t.Fatal(err)
	}
	write(t, open(t, dir), "d")
	data, _ := os.ReadFile(file)
	if wrong := Verify(data, map[string]int{"a": 1, "b": 2, "d": 3}, map[string]bool{"c": true}); len(wrong) > 0 {
		t.Error(wrong)
	}
}

func TestADamagedJournalIsRefused(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	write(t, j, "a", "b", "c")
	j.Close()
	file := filepath.Join(dir, "journal")
	data, _ := os.ReadFile(file)
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "record 2 is damaged") {
		t.Errorf("have %v", err)
	}
}

func TestVerify(t *testing.T) {
	lines := func(records ...Record) []byte {
		var all [][]byte
		for _, r := range records {
			all = append(all, r.line())
		}
		return bytes.Join(all, nil)
	}
	acknowledged, unanswered := map[string]int{"a": 1, "b": 2}, map[string]bool{"x": true}
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"all there", lines(Record{1, "a"}, Record{2, "b"}), ""},
		{"one more whose answer was lost", lines(Record{1, "a"}, Record{2, "b"}, Record{3, "x"}), ""},
		{"the last one lost", lines(Record{1, "a"}), "record 2 was acknowledged"},
		{"one lost and its number another's", lines(Record{1, "a"}, Record{2, "x"}), "record 2 was acknowledged"},
		{"one twice", lines(Record{1, "a"}, Record{2, "b"}, Record{3, "b"}), "record 3 is record 2 again"},
		{"a stranger's", lines(Record{1, "a"}, Record{2, "b"}, Record{3, "y"}), "record 3 is nobody's"},
		{"a number left out", lines(Record{1, "a"}, Record{3, "b"}), "record 2 has number 3"},
		{"a flipped bit", bytes.Replace(lines(Record{1, "a"}, Record{2, "b"}), []byte("9abc"), []byte("9abb"), 1), "record 1 is damaged"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(Verify(tt.data, acknowledged, unanswered), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("have %q, want %q", got, tt.want)
			}
		})
	}
}
