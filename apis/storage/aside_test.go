package storage

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestWhereverASettingAsideIsCutOffItGoesOn: a member that the others have let
// go must not start as what it was, nor found a cluster of its own.
func TestWhereverASettingAsideIsCutOffItGoesOn(t *testing.T) {
	put := func(dir string, names ...string) {
		t.Helper()
		for _, name := range names {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(`{"file": "/f", "cause": "c"}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	const log = "member/wal/0.wal"
	for name, test := range map[string]struct {
		// has is what is there when it is cut off.
		has []string
		// gone says that all that matters has been moved.
		gone bool
	}{
		"before it begins":             {[]string{"formed", "db.sums", "sums.json", "damaged.json", log}, false},
		"with one of before":           {[]string{"formed", "db.sums", "sums.json", "damaged.json", log, "damaged/db.sums", "damaged/" + log}, false},
		"when some of it is moved":     {[]string{"formed", "sums.json", "damaged.json", log, "damaged/trouble.json", "damaged/db.sums"}, false},
		"when the member is moved":     {[]string{"formed", "damaged.json", "damaged/trouble.json", "damaged/db.sums", "damaged/sums.json", "damaged/" + log}, true},
		"when it is no longer damaged": {[]string{"formed", "damaged/trouble.json", "damaged/db.sums", "damaged/sums.json", "damaged/" + log}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(dir, test.has...)
			var trouble *Trouble
			err := damage(dir)
			if test.gone {
				if err != nil || founded(dir) || !exists(filepath.Join(dir, asideDir, memberDir)) {
					t.Errorf("it does not join as a new one: %v", err)
				}
				return
			}
			if !errors.As(err, &trouble) {
				t.Fatalf("damage: %v", err)
			}
			if err := setAside(dir, trouble); err != nil {
				t.Fatal(err)
			}
			if left, want := names(t, dir), []string{"damaged", "formed"}; !slices.Equal(left, want) {
				t.Errorf("left: %v, want %v", left, want)
			}
			if moved := names(t, filepath.Join(dir, "damaged")); !slices.Contains(moved, "trouble.json") || !slices.Contains(moved, "member") {
				t.Errorf("moved: %v", moved)
			}
		})
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
